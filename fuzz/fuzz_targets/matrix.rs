//! Matrix files: rates are rates, and a matrix that was read is the same when it is written and read again.
#![no_main]

use huddle_model::matrix::SharingMatrix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(matrix) = SharingMatrix::from_file_text(text) else { return };
    for (i, j) in matrix.pairs() {
        assert!((0.0..=1.0).contains(&matrix.rate(i, j)));
        assert_eq!(matrix.shared_frames(i, j), matrix.shared_frames(j, i));
    }
    let written = serde_json::to_string(&matrix).expect("a matrix is JSON");
    assert_eq!(SharingMatrix::from_file_text(&written).expect("our own JSON"), matrix);
});
