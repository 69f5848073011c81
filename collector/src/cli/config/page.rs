//! `docs/configuration.md`, generated from the types that the configuration file is read into: their doc comments, the
//! types of their fields, and their defaults. `HUDDLE_WRITE_DOCS=1 cargo test -p huddle configuration_page` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use huddle_host::limits::Limits;
use huddle_metrics::MetricsSettings;
use huddle_model::matrix::Weigh;
use huddle_model::plan::{PlanLimits, Policy};
use huddle_model::trial::{Objective, TrialSettings};
use huddle_tui::{Command, KeyMap, Palette, Scope};
use serde::Serialize;
use syn::{Attribute, Expr, Field, Fields, Item, ItemStruct, Lit, Meta};

use super::Config;
use super::reload::Applies;

/// From the repository's root.
const PAGE: &str = "docs/configuration.md";
const CONFIG: &str = "collector/src/cli/config.rs";
const RECORD: &str = "collector/src/cli/config/record.rs";
const SHARING: &str = "collector/src/cli/config/sharing.rs";
const SKETCH: &str = "collector/src/cli/config/sketch.rs";
const WRITE: &str = "HUDDLE_WRITE_DOCS";

/// A table of the file and the type it is read into.
struct Section {
    heading: &'static str,
    /// The TOML before a key of it.
    toml: &'static str,
    source: &'static str,
    type_name: &'static str,
    /// Defaults that the type itself has; else its comments name them.
    defaults: Option<toml::Table>,
}

impl Section {
    /// Whether a reload applies this key of it; nothing for a table, whose keys say it.
    fn reload(&self, key: &str) -> &'static str {
        let table = self.toml.trim_matches(['[', ']', '\n']);
        let is_table = |section: &Section| section.toml.trim_end() == format!("[{key}]");
        match table {
            "" if sections().iter().any(is_table) => "",
            "" => Applies::of(key).name(),
            table => Applies::of(&format!("{table}.{key}")).name(),
        }
    }
}

fn sections() -> Vec<Section> {
    let limits = "collector/host/src/limits.rs";
    let plan = "model/src/plan/limits.rs";
    let metrics = "collector/metrics/src/settings.rs";
    let trial = "model/src/trial/settings.rs";
    let section =
        |heading, toml, source, type_name, defaults| Section { heading, toml, source, type_name, defaults };
    let of_config = |heading, toml, type_name| section(heading, toml, CONFIG, type_name, None);
    vec![
        of_config("Top level", "", "Config"),
        of_config("`[[vm]]`", "[[vm]]\n", "VmEntry"),
        of_config("`[discover]`", "[discover]\n", "DiscoverSettings"),
        section("`[limits]`", "[limits]\n", limits, "Limits", Some(table(&Limits::default()))),
        section("`[plan]`", "[plan]\n", plan, "PlanLimits", Some(table(&PlanLimits::default()))),
        of_config("`[pin]`", "[pin]\n", "PinSettings"),
        section("`[sharing]`", "[sharing]\n", SHARING, "SharingSettings", None),
        of_config("`[counters]`", "[counters]\n", "CounterSettings"),
        section("`[trial]`", "[trial]\n", trial, "TrialSettings", Some(table(&TrialSettings::default()))),
        section("`[record]`", "[record]\n", RECORD, "RecordSettings", None),
        section("`[sketch]`", "[sketch]\n", SKETCH, "SketchingSettings", None),
        section(
            "`[metrics]`",
            "[metrics]\n",
            metrics,
            "MetricsSettings",
            Some(table(&MetricsSettings::default())),
        ),
        of_config("`[xen]`", "[xen]\n", "XenSettings"),
        of_config("`[top]`", "[top]\n", "TopSettings"),
    ]
}

fn table(defaults: &impl Serialize) -> toml::Table {
    toml::Table::try_from(defaults).unwrap()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn struct_of(section: &Section) -> ItemStruct {
    let text = std::fs::read_to_string(repository().join(section.source)).unwrap();
    let items = syn::parse_file(&text).unwrap().items.into_iter();
    let mut structs = items.filter_map(|item| match item {
        Item::Struct(item) => Some(item),
        _ => None,
    });
    structs.find(|item| item.ident == section.type_name).unwrap()
}

fn fields(item: &ItemStruct) -> Vec<&Field> {
    match &item.fields {
        Fields::Named(fields) => fields.named.iter().collect(),
        _ => Vec::new(),
    }
}

/// The lines of a doc comment.
fn comment(attributes: &[Attribute]) -> Vec<String> {
    let texts = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    texts.map(|text| text.strip_prefix(' ').unwrap_or(&text).to_owned()).collect()
}

/// The paragraphs of a doc comment, a line each; code blocks as they are.
fn paragraphs(attributes: &[Attribute]) -> String {
    let mut page = String::new();
    let mut is_code = false;
    for line in comment(attributes) {
        let is_fence = line.starts_with("```");
        if is_code || is_fence {
            is_code ^= is_fence;
            page.push_str(&line);
            page.push('\n');
        } else if line.is_empty() {
            page.push_str("\n\n");
        } else {
            if !page.is_empty() && !page.ends_with('\n') {
                page.push(' ');
            }
            page.push_str(&line);
        }
    }
    page.trim_end().to_owned()
}

/// What a value looks like in TOML.
fn value_of(field: &Field) -> String {
    let syn::Type::Path(path) = &field.ty else { panic!("a setting of an unforeseen type") };
    of_path(&path.path, &field.ident.as_ref().unwrap().to_string())
}

fn of_path(path: &syn::Path, field: &str) -> String {
    let last = path.segments.last().unwrap();
    let inner: Vec<String> = match &last.arguments {
        syn::PathArguments::AngleBracketed(arguments) => {
            let types = arguments.args.iter().filter_map(|argument| match argument {
                syn::GenericArgument::Type(syn::Type::Path(path)) => Some(of_path(&path.path, field)),
                _ => None,
            });
            types.collect()
        }
        _ => Vec::new(),
    };
    let names =
        |names: &[&str]| names.iter().map(|name| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", ");
    match last.ident.to_string().as_str() {
        "Option" => inner[0].clone(),
        "Vec" => format!("array of {}", plural(&inner[0])),
        "BTreeMap" => format!("table of {}", plural(&inner[1])),
        "bool" => "boolean".into(),
        "u8" | "u32" | "u64" | "i32" | "usize" | "NonZeroU32" => "integer".into(),
        "KeepTime" => "time such as `\"10m\"`".into(),
        "SketchTime" => "time such as `\"6h\"`".into(),
        "OneIn" => "integer from 2".into(),
        "Listen" => "address with port, or `unix:` and a path".into(),
        "f64" => "number".into(),
        "Share" => "number above 0, at most 1".into(),
        "ReadWindow" => "integer from 1 to 60000".into(),
        "Weigh" => names(&[Weigh::All, Weigh::Read].map(Weigh::name)),
        "String" if field == "palette" => names(&Palette::ALL.map(Palette::name)),
        "String" => "string".into(),
        "PathBuf" => "path".into(),
        "Policy" => names(&Policy::ALL.map(Policy::name)),
        "Objective" => names(&Objective::ALL.map(Objective::name)),
        "LoopMethod" => names(&["merged", "content"]),
        "FramesBy" => names(&["auto", "pagemap"]),
        "AffinityKind" => names(&["hard", "soft"]),
        "VmPattern" => "pattern".into(),
        "VmEntry" | "Limits" => "table".into(),
        name if name.ends_with("Settings") || name == "PlanLimits" => "table".into(),
        name => panic!("say in {} what a {name} looks like in TOML", file!()),
    }
}

fn plural(value: &str) -> String {
    match value.strip_prefix("array") {
        Some(rest) => format!("arrays{rest}"),
        None => format!("{value}s"),
    }
}

/// The meaning of a setting, and its default.
fn meaning_and_default(field: &Field, defaults: Option<&toml::Table>) -> (String, String) {
    let text = paragraphs(&field.attrs).replace("\n\n", "<br>");
    let name = field.ident.as_ref().unwrap().to_string();
    let (meaning, named) = match text.split_once(" [default: ") {
        Some((meaning, default)) => (meaning.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (text, String::new()),
    };
    let own = defaults.and_then(|defaults| defaults.get(&name)).map(|value| match value {
        toml::Value::Array(values) if values.is_empty() => "none".to_owned(),
        toml::Value::Table(values) if values.is_empty() => "none".to_owned(),
        value => format!("`{value}`"),
    });
    (meaning, own.unwrap_or(named))
}

/// Where the keys of `[top.keys]` hold.
fn place(scope: Scope) -> String {
    match scope {
        Scope::Always | Scope::Everywhere => "everywhere".into(),
        Scope::In(view) => view.name().into(),
        Scope::InHelp => "help".into(),
        Scope::Typing => "typing a filter".into(),
        Scope::Asking => "confirmation".into(),
        Scope::Choosing => "choosing from a list".into(),
    }
}

fn keys(page: &mut String) {
    page.push_str(
        "\n## `[top.keys]`\n\nEach entry is a command and all the keys it is to have. `VIEW.COMMAND`, such as \
         `\"sharing.order\"`, sets them in one view only. These are the defaults.\n\n\
         | command | keys | where | does |\n|---|---|---|---|\n",
    );
    let mut rows: Vec<((Command, String), Vec<String>)> = Vec::new();
    for binding in KeyMap::default().bindings() {
        let of = (binding.command, place(binding.scope));
        let key = format!("`{}`", binding.key);
        match rows.iter_mut().find(|(row, _)| *row == of) {
            Some((_, keys)) => keys.push(key),
            None => rows.push((of, vec![key])),
        }
    }
    let mut merged: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    let order: Vec<Command> = rows.iter().map(|((command, _), _)| *command).collect();
    for ((command, place), keys) in rows {
        let first = order.iter().position(|other| *other == command).unwrap();
        merged.entry((first, keys.join(" "))).or_default().push(place);
    }
    for ((first, keys), places) in merged {
        let command = order[first];
        let places = places.join(", ");
        writeln!(page, "| `{}` | {keys} | {places} | {} |", command.name(), command.description()).unwrap();
    }
}

fn configuration_page() -> String {
    let mut page = String::from("# Configuration\n\n");
    for section in sections() {
        let item = struct_of(&section);
        let about = paragraphs(&item.attrs);
        if section.type_name == "Config" {
            write!(
                page,
                "{about}\n\nThe column `reload` says whether a [service](install.md) applies the key when its configuration is \
                 reloaded, or only when it is started again. On Xen a reload applies `policy` and `[plan]` only.\n\n\
                 This page is made from the types in `{CONFIG}`; a test fails when it is old. \
                 `{WRITE}=1 cargo test --package huddle configuration_page` writes it.\n"
            )
            .unwrap();
        }
        write!(page, "\n## {}\n\n", section.heading).unwrap();
        if section.type_name != "Config" {
            write!(page, "{about}\n\n").unwrap();
        }
        page.push_str("| key | value | default | reload | meaning |\n|---|---|---|---|---|\n");
        for field in fields(&item) {
            let (meaning, default) = meaning_and_default(field, section.defaults.as_ref());
            let (name, value) = (field.ident.as_ref().unwrap(), value_of(field));
            let reload = section.reload(&name.to_string());
            writeln!(page, "| `{name}` | {value} | {default} | {reload} | {meaning} |").unwrap();
        }
    }
    keys(&mut page);
    page
}

/// The keys that serde itself knows in a section, from its message for one that it does not know.
fn known_to_serde(section: &Section) -> Vec<String> {
    let error = toml::from_str::<Config>(&format!("{}no_such_key = 1\n", section.toml)).unwrap_err();
    let (_, expected) = error.message().split_once("expected ").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

mod tests {
    use super::*;

    #[test]
    fn the_configuration_page_is_current() {
        let made = configuration_page();
        let path = repository().join(PAGE);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        let hint = format!("{PAGE} is old: run `{WRITE}=1 cargo test --package huddle configuration_page`");
        assert!(written == made, "{hint}");
    }

    #[test]
    fn the_configuration_page_has_every_key_that_is_read() {
        for section in sections() {
            let item = struct_of(&section);
            let names: Vec<String> =
                fields(&item).iter().map(|field| field.ident.as_ref().unwrap().to_string()).collect();
            assert_eq!(names, known_to_serde(&section), "{}", section.heading);
            for field in fields(&item) {
                let (meaning, _) = meaning_and_default(field, None);
                assert!(
                    !meaning.is_empty() && !meaning.contains("]("),
                    "{}: {meaning:?}",
                    field.ident.as_ref().unwrap()
                );
            }
        }
    }

    #[test]
    fn examples_of_the_pages_are_read() {
        for name in [PAGE, "docs/guide.md", "docs/xen.md"] {
            let page = std::fs::read_to_string(repository().join(name)).unwrap();
            let blocks: Vec<&str> =
                page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
            assert!(!blocks.is_empty(), "{name} has no example");
            for block in blocks {
                Config::parse(block).unwrap_or_else(|error| panic!("{name}: {error:#}\n{block}"));
            }
        }
    }
}
