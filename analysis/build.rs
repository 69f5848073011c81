//! Compiles the git revision into the programs of this package.

fn main() {
    huddle_revision::emit(&["model"]);
}
