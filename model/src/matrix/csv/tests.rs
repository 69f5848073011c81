use proptest::prelude::*;

use super::*;

/// Table 1 of the paper.
const TABLE_1: &str = "vm,VM1,VM2,VM3,VM4\n\
    VM1,-,71.17,0.07,0.05\n\
    VM2,71.43 %,,0.06,0.05\n\
    VM3,0.06,0.05,-,52.18\n\
    VM4,0.04,0.05,52.38,-\n";

fn read(text: &str) -> MatrixFile {
    SharingMatrix::from_file(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn trouble(text: &str) -> String {
    let error = SharingMatrix::from_file(text).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn the_papers_table_is_read_however_it_was_saved() {
    let matrix = read(TABLE_1).matrix;
    assert_eq!(matrix.len(), 4);
    assert!((matrix.rate(1, 0) - 0.7143).abs() < 1e-12);
    assert_eq!((matrix.rate(1, 1), matrix.shared_frames(0, 1)), (0.0, None));
    let german = TABLE_1.replace(',', ";").replace('.', ",");
    for text in [
        format!("\u{feff}{TABLE_1}"),
        TABLE_1.replace('\n', "\r\n"),
        TABLE_1.replace('\n', "\r"),
        TABLE_1.trim_end().to_owned(),
        TABLE_1.replace(',', ";"),
        TABLE_1.replace(',', "\t"),
        german.clone(),
        format!("sep=;\r\n{}", german.replace('\n', "\r\n")),
        format!("# measured on host h\n#\n\n{TABLE_1}"),
        quoted(TABLE_1),
        // Excel pads rows and leaves empty ones below.
        TABLE_1.replace('\n', ",,\n") + ",,,,,,\n,,,,,,\n",
        TABLE_1.replace(",-", ",0").replace(",,", ",0,"),
        TABLE_1.replace(",-", ",100").replace(",,", ",100 %,"),
        TABLE_1.replace(",-", ",NaN").replace(",,", ",n/a,"),
    ] {
        let found = read(&text);
        assert_eq!(found.matrix, matrix, "{text:?}");
        assert_eq!(found.notes, [] as [String; 0], "{text:?}");
    }
}

/// Every field in quotes.
fn quoted(text: &str) -> String {
    let fields =
        |line: &str| line.split(',').map(|field| format!("\"{field}\"")).collect::<Vec<_>>().join(",");
    text.lines().map(fields).collect::<Vec<_>>().join("\n")
}

#[test]
fn fractions_are_told_from_percentages_and_this_is_said() {
    let by_diagonal = read(",a,b\na,1,0.5\nb,0.25,1.0\n");
    assert_eq!((by_diagonal.matrix.rate(0, 1), by_diagonal.matrix.rate(1, 0)), (0.5, 0.25));
    assert!(
        by_diagonal.notes[0].contains("fractions of 1") && by_diagonal.notes[0].contains("diagonal is 1")
    );
    let by_size = read(",a,b\na,0,0.5\nb,0.25,0\n");
    assert_eq!(by_size.matrix, by_diagonal.matrix);
    assert!(
        by_size.notes[0].contains("if they are percentages, write 100 on the diagonal"),
        "{:?}",
        by_size.notes
    );
    // Percentages below one.
    for text in [",a,b\na,100,0.5\nb,0.25,100\n", ",a,b\na,-,0.5%\nb,0.25 %,-\n"] {
        let found = read(text);
        assert_eq!((found.matrix.rate(0, 1), found.matrix.rate(1, 0)), (0.005, 0.0025), "{text:?}");
        assert!(found.notes.is_empty(), "{text:?}");
    }
    assert!(read(",a,b\na,-,0\nb,0,-\n").notes.is_empty());
    for text in [",a,b\na,1,50\nb,0.25,1\n", ",a,b\na,1,0.5%\nb,0.25,1\n"] {
        let told = trouble(text);
        assert!(told.starts_with("line 2, column 3: ") && told.contains("since the diagonal is 1"), "{told}");
    }
    assert!(trouble(",a,b\na,1,0.5\nb,0.25,100\n").contains("both 1 and 100"));
}

#[test]
fn trouble_is_named_with_its_position() {
    for (text, words) in [
        ("", "names no VM"),
        ("# only a comment\n", "names no VM"),
        ("vm,a,b\na,-,1\n", "first column"),
        ("vm,a,b\na,-,1\nb,1\n", "line 3, column 2: the matrix is not square: the row of \"b\""),
        ("vm,a,b\na,-,1\nb,1,-,7\n", "line 3, column 4: the matrix is not square"),
        ("vm,a,b\na,-,1\nb,1,-\nc,1,1\n", "line 4, column 1: the matrix is not square"),
        ("vm,a,b\na,-,NaN\nb,1,-\n", "line 2, column 3: the cell of \"a\" and \"b\" is \"NaN\""),
        ("vm,a,b\na,-,\nb,1,-\n", "0 only if the two are known to share nothing"),
        ("# c\n\nvm,a,b\na,-,inf\nb,1,-\n", "line 4, column 3: the cell of \"a\" and \"b\" is \"inf\""),
        ("vm,a,b\na,-,-3\nb,1,-\n", "-3"),
        ("vm,a,b\na,-,100.5\nb,1,-\n", "100.5"),
        ("vm;a;b\na;-;1.234,5\nb;1;-\n", "1.234,5"),
        ("vm,a,b\na,5,1\nb,1,-\n", "line 2, column 2: the cell of \"a\" and \"a\" is \"5\""),
        ("vm,a,a\na,-,1\na,1,-\n", "two VMs"),
        ("vm,a,,b\na,-,1,1\n", "VM 2 of the matrix has no name"),
        ("vm,a,b\nb,-,1\na,1,-\n", "line 2, column 1: row 1 is for VM \"b\""),
    ] {
        let told = trouble(text);
        assert!(told.contains(words), "{text:?}: {told}");
    }
}

/// How a table is written.
#[derive(Clone, Debug)]
struct Style {
    separator: char,
    has_decimal_comma: bool,
    is_quoted: bool,
    line_end: &'static str,
    before: &'static str,
    padding: usize,
    diagonal: &'static str,
    /// What a rate is multiplied by, and what stands after a cell.
    unit: (f64, &'static str),
}

fn style() -> impl Strategy<Value = Style> {
    let separators =
        prop_oneof![Just((',', false)), Just((';', false)), Just((';', true)), Just(('\t', true))];
    let ends = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
    let before = prop_oneof![Just(""), Just("\u{feff}"), Just("# made by hand\n"), Just("\n\n")];
    let unit = prop_oneof![
        Just(("100", (100.0, ""))),
        Just(("1", (1.0, ""))),
        Just(("-", (100.0, " %"))),
        Just(("", (100.0, "%"))),
        Just(("NaN", (100.0, "%"))),
        Just(("0", (100.0, "\u{a0}%"))),
    ];
    (separators, any::<bool>(), ends, before, 0_usize..3, unit).prop_map(
        |((separator, has_decimal_comma), is_quoted, line_end, before, padding, (diagonal, unit))| Style {
            separator,
            has_decimal_comma,
            is_quoted,
            line_end,
            before,
            padding,
            diagonal,
            unit,
        },
    )
}

impl Style {
    fn write(&self, names: &[String], rates: &[Vec<f64>]) -> String {
        let field = |text: &str| if self.is_quoted { format!("\"{text}\"") } else { text.to_owned() };
        let number = |rate: f64| {
            let text = format!("{}{}", rate * self.unit.0, self.unit.1);
            field(&if self.has_decimal_comma { text.replace('.', ",") } else { text })
        };
        let line = |mut fields: Vec<String>| {
            fields.extend(vec![String::new(); self.padding]);
            fields.join(&self.separator.to_string()) + self.line_end
        };
        let mut text = self.before.to_owned();
        text += &line(std::iter::once(String::new()).chain(names.iter().map(|name| field(name))).collect());
        for (i, name) in names.iter().enumerate() {
            let cells = rates[i].iter().enumerate();
            let cells = cells.map(|(j, rate)| if i == j { field(self.diagonal) } else { number(*rate) });
            text += &line(std::iter::once(field(name)).chain(cells).collect());
        }
        text
    }
}

proptest! {
    #[test]
    fn every_style_gives_the_rates_that_were_written(
        style in style(),
        rates in (2_usize..6).prop_flat_map(|n| proptest::collection::vec(proptest::collection::vec(0.0..=1.0_f64, n), n)),
    ) {
        let names: Vec<String> = (0..rates.len()).map(|i| format!("web {i}")).collect();
        let text = style.write(&names, &rates);
        let found = SharingMatrix::from_file(&text);
        prop_assert!(found.is_ok(), "{:?}: {}", text, found.unwrap_err());
        let found = found.unwrap();
        prop_assert_eq!(found.notes.len(), usize::from(style.unit.0 == 1.0));
        for (i, j) in found.matrix.pairs() {
            for (i, j) in [(i, j), (j, i)] {
                prop_assert!((found.matrix.rate(i, j) - rates[i][j]).abs() < 1e-12, "{:?}", text);
            }
        }
    }

    #[test]
    fn no_table_of_cells_makes_the_reader_panic(text in "[a-c,;\t#0-9.\n\r\"%-]{0,120}") {
        if let Ok(file) = SharingMatrix::from_file(&text) {
            for (i, j) in file.matrix.pairs() {
                prop_assert!((0.0..=1.0).contains(&file.matrix.rate(i, j)));
            }
        }
    }
}
