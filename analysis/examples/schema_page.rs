//! Writes `docs/schema.md` and `analysis/schema.json` from the schema itself.

use std::path::Path;

use huddle_model::schema::{schema_json, schema_page};

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::create_dir_all(root.join("docs"))?;
    std::fs::write(root.join("docs/schema.md"), schema_page())?;
    std::fs::write(root.join("analysis/schema.json"), schema_json()?)?;
    Ok(())
}
