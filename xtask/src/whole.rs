//! Images that are made once, and are complete or absent.
//!
//! An image is made in its own directory and moved into place when it is complete; a build that fails or
//! is killed leaves that directory, and the next one removes it.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Context;

/// What an image was made from, beside it.
const RECIPE: &str = "recipe";

/// Lets `build` fill a directory beside `place`, and moves it there; does nothing if `place` has this recipe
/// already. If `build` fails, `place` does not change.
pub(crate) fn make(
    place: &Path,
    recipe: &str,
    build: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let images = place.parent().context("an image has no directory to be made in")?;
    fs::create_dir_all(images).with_context(|| format!("cannot make {}", images.display()))?;
    // Two builds at once would use one directory. The lock ends with this process.
    let path = place.with_extension("lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    let building = place.with_extension("building");
    if building.exists() {
        fs::remove_dir_all(&building)
            .with_context(|| format!("cannot remove {}, left by an earlier build", building.display()))?;
    }
    if fs::read_to_string(place.join(RECIPE)).is_ok_and(|text| text == recipe) {
        return Ok(());
    }
    fs::create_dir(&building).with_context(|| format!("cannot make {}", building.display()))?;
    let made = build(&building).and_then(|()| {
        fs::write(building.join(RECIPE), recipe).context("cannot write the image's recipe")?;
        if place.exists() {
            fs::remove_dir_all(place).with_context(|| format!("cannot replace {}", place.display()))?;
        }
        fs::rename(&building, place).with_context(|| format!("cannot make {}", place.display()))
    });
    made.inspect_err(|_| {
        // If it cannot be removed now, the next build removes it or reports it.
        let _ = fs::remove_dir_all(&building);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_complete_or_absent_and_made_once() {
        let dir = std::env::temp_dir().join(format!("xtask-whole-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let place = dir.join("web");
        let half = |directory: &Path| {
            fs::write(directory.join("vmlinuz"), "half")?;
            anyhow::bail!("no network")
        };
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert!(make(&place, "one", half).is_err());
        assert_eq!(names(), ["web.lock"]);

        // A build that was killed leaves its directory.
        fs::create_dir(dir.join("web.building")).unwrap();
        fs::write(dir.join("web.building/tree.tar"), "half").unwrap();
        let whole =
            |text: &'static str| move |directory: &Path| Ok(fs::write(directory.join("initrd"), text)?);
        make(&place, "one", whole("first")).unwrap();
        make(&place, "one", whole("again")).unwrap();
        assert_eq!(fs::read_to_string(place.join("initrd")).unwrap(), "first");
        assert!(make(&place, "two", half).is_err());
        assert_eq!(fs::read_to_string(place.join("initrd")).unwrap(), "first");
        make(&place, "two", whole("second")).unwrap();
        assert_eq!(fs::read_to_string(place.join("initrd")).unwrap(), "second");
        assert_eq!(names(), ["web", "web.lock"]);
        fs::remove_dir_all(dir).unwrap();
    }
}
