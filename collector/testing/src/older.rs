//! Recordings as older versions of huddle left them.

use std::fs;
use std::path::Path;

use huddle_model::schema::{MANIFEST_FILE, Manifest, Table};

/// What a label of a segment begins with (`huddle_recording::label`).
const MARK: &[u8] = b"huddle/segment/1 ";

/// Makes a recording one from before segments had a checksum: the manifest does not speak of it, and the segments
/// have nothing that a reader would take for one.
pub fn forget_checksums(run: &Path) {
    let path = run.join(MANIFEST_FILE);
    let manifest = Manifest::from_json(&fs::read_to_string(&path).unwrap()).unwrap();
    fs::write(&path, Manifest { segment_checksum: None, ..manifest }.to_json().unwrap()).unwrap();
    for table in Table::ALL {
        let Ok(entries) = fs::read_dir(run.join(table.name())) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let mut bytes = fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(MARK.len()).rposition(|found| found == MARK) {
                bytes[at] = b'-';
                fs::write(&path, bytes).unwrap();
            }
        }
    }
}
