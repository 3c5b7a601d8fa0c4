//! Files of rows, sound and broken.

use std::io::Write as _;
use std::sync::Arc;

use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use serde_json::json;

use super::*;

fn read_as(ending: &str, bytes: &[u8]) -> Result<Vec<Value>, String> {
    let mut file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let rows = read(&[file.path().to_owned()]).map_err(|error| {
        let text = error.to_string();
        assert!(text.contains(file.path().to_str().unwrap()), "{text}");
        text
    })?;
    Ok(rows
        .iter()
        .map(|row| serde_json::to_value(row).unwrap())
        .collect())
}

#[test]
fn csv_and_tsv_are_read_with_quotes_lines_and_marks_of_order() {
    let expected = vec![
        json!({"id": "7", "problem_statement": "What, \"now\"?\nSay.", "ground_truth": "0042"}),
        json!({"id": "row_00001", "problem_statement": "ü", "ground_truth": null}),
    ];
    let text = "\u{feff}id,problem_statement,ground_truth\r\n7,\"What, \"\"now\"\"?\nSay.\",0042\r\n,ü,\r\n";
    assert_eq!(read_as(".csv", text.as_bytes()).unwrap(), expected);
    assert_eq!(read_as(".CSV", text.as_bytes()).unwrap(), expected);
    let text =
        "id\tproblem_statement\tground_truth\n7\t\"What, \"\"now\"\"?\nSay.\"\t0042\n\tü\t\n";
    assert_eq!(read_as(".tsv", text.as_bytes()).unwrap(), expected);
}

#[test]
fn mistakes_in_csv_name_line_row_and_column() {
    for (bytes, why) in [
        (
            &b"a,b\n1,2\n3\n"[..],
            "line 3 (row 2) has 1 columns and not 2",
        ),
        (
            b"a,b\n1,2\n3,\xff\n",
            "line 3 (row 2), column \"b\": it is no UTF-8",
        ),
        (b"a,a\n1,2\n", "the column \"a\" is there twice"),
        (b"a,\xff\n", "line 1"),
    ] {
        let error = read_as(".csv", bytes).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_quote_that_is_never_closed_does_not_read_for_ever() {
    let endless = std::io::Read::chain(&b"a,b\n\"1,2\n"[..], std::io::repeat(b'x'));
    let error = csv::add(endless, false, &mut Rows::default()).unwrap_err();
    assert!(error.contains("is a quote missing"), "{error}");
}

/// Two rows with every shape that a data set has.
fn parquet_file() -> Vec<u8> {
    let schema = "message m {
        required binary problem_statement (UTF8);
        optional int64 id;
        optional double weight;
        optional boolean hard;
        optional group input_files { optional binary a (UTF8); }
        optional binary raw;
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let texts = |texts: &[&str]| -> Vec<ByteArray> { texts.iter().map(|t| (*t).into()).collect() };
    let mut column = group.next_column().unwrap().unwrap();
    let problems = texts(&["p", "q"]);
    column
        .typed::<ByteArrayType>()
        .write_batch(&problems, None, None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<Int64Type>()
        .write_batch(&[1 << 60], Some(&[1, 0]), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<DoubleType>()
        .write_batch(&[0.5], Some(&[1, 0]), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<BoolType>()
        .write_batch(&[true], Some(&[1, 0]), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<ByteArrayType>()
        .write_batch(&texts(&["text of a"]), Some(&[2, 0]), None)
        .unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let raw = [ByteArray::from("fine"), ByteArray::from(vec![0xff])];
    column
        .typed::<ByteArrayType>()
        .write_batch(&raw, Some(&[1, 1]), None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn parquet_is_read_and_its_mistakes_name_row_and_column() {
    let bytes = parquet_file();
    let error = read_as(".parquet", &bytes).unwrap_err();
    assert!(
        error.contains("row 2, column \"raw\": it holds bytes that are no UTF-8"),
        "{error}"
    );
    // Columns that are not where the end of the file says.
    let error = read_as(".parquet", &bytes[40..]).unwrap_err();
    assert!(error.contains("row 1"), "{error}");
    for broken in [&bytes[..0], &bytes[..40], b"PAR1\0\0\0\0PAR1"] {
        let error = read_as(".parquet", broken).unwrap_err();
        assert!(error.contains("it is no Parquet"), "{error}");
    }
}

/// `tests/data/benchmark/shapes.parquet` is what pyarrow writes: snappy, dictionaries, structs, lists, nulls, two row groups.
#[test]
fn parquet_as_data_sets_have_it_is_read() {
    let bytes = include_bytes!("../../../tests/data/benchmark/shapes.parquet");
    let rows = read_as(".parquet", bytes).unwrap();
    assert_eq!(
        rows,
        [
            json!({"id": "a", "problem_statement": "p ü", "ground_truth": "4", "weight": 0.1,
                "input_files": {"a.txt": "one", "b.txt": null}, "choices": ["x", "y"], "hard": true}),
            json!({"id": "row_00001", "problem_statement": "q", "ground_truth": null, "weight": null,
                "input_files": {"a.txt": null, "b.txt": "two"}, "choices": [], "hard": null}),
            json!({"id": "c", "problem_statement": "p ü", "ground_truth": "4", "weight": -1.5,
                "input_files": null, "choices": null, "hard": false}),
        ]
    );
}
