//! Rows from Parquet, as data sets are stored on hubs.

use std::fs::File;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Number, Value};

use super::{MAX_BYTES, MAX_ROW, MAX_ROWS, Rows};

pub(super) fn add(file: File, rows: &mut Rows) -> Result<(), String> {
    let reader = SerializedFileReader::new(file).map_err(|e| format!("it is no Parquet: {e}"))?;
    let groups = reader.metadata().row_groups();
    let (mut count, mut bytes) = (0_i64, 0_i64);
    for group in groups {
        count = count.saturating_add(group.num_rows());
        bytes = bytes.saturating_add(group.total_byte_size());
    }
    let within = |number: i64, most: u64| u64::try_from(number).is_ok_and(|number| number <= most);
    if !within(count, MAX_ROWS as u64) || !within(bytes, MAX_BYTES) {
        return Err(format!(
            "it has {count} rows of {bytes} bytes, more than {MAX_ROWS} rows or {MAX_BYTES} bytes"
        ));
    }
    let records = reader
        .get_row_iter(None)
        .map_err(|e| format!("it cannot be read: {e}"))?;
    for (record, number) in records.zip(1..) {
        let record = record.map_err(|e| format!("row {number}: {e}"))?;
        let mut left = MAX_ROW;
        let mut object = Map::new();
        for (name, field) in record.into_columns() {
            let value = value(field, &mut left)
                .map_err(|e| format!("row {number}, column {name:?}: {e}"))?;
            object.insert(name, value);
        }
        rows.push(object)
            .map_err(|e| format!("row {number}: {e}"))?;
    }
    Ok(())
}

/// A field as JSON; `left` is what the row may still hold, since one stored text can stand in a row many times.
fn value(field: Field, left: &mut usize) -> Result<Value, String> {
    let takes = if let Field::Str(text) = &field {
        text.len()
    } else if let Field::Bytes(bytes) = &field {
        bytes.len()
    } else {
        8
    };
    *left = left
        .checked_sub(takes)
        .ok_or_else(|| format!("the row holds more than {MAX_ROW} bytes"))?;
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => float(number.into())?,
        // By way of its digits, or 0.1 becomes 0.10000000149011612.
        Field::Float(number) => float(number.to_string().parse().unwrap_or(f64::from(number)))?,
        Field::Double(number) => float(number)?,
        Field::Str(text) => Value::String(text),
        Field::Bytes(bytes) => {
            let text = std::str::from_utf8(bytes.data());
            text.map_err(|_| "it holds bytes that are no UTF-8 text")?
                .into()
        }
        field @ (Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_)) => Value::String(field.to_string()),
        Field::Group(row) => {
            let mut object = Map::new();
            for (name, field) in row.into_columns() {
                object.insert(name, value(field, left)?);
            }
            Value::Object(object)
        }
        Field::ListInternal(list) => {
            let items = list.elements().iter();
            let items = items.map(|item| value(item.clone(), left));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let mut object = Map::new();
            for (name, content) in map.entries() {
                let Value::String(name) = value(name.clone(), left)? else {
                    return Err("it holds a map whose keys are no texts".to_owned());
                };
                object.insert(name, value(content.clone(), left)?);
            }
            Value::Object(object)
        }
    })
}

fn float(number: f64) -> Result<Value, String> {
    let number =
        Number::from_f64(number).ok_or_else(|| format!("{number} is no number of JSON"))?;
    Ok(Value::Number(number))
}
