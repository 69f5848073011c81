//! Compiles the git revision into the program.

fn main() {
    huddle_revision::emit(&["model"]);
}
