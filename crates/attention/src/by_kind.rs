use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use serde_json::{Map, Value};

/// Reads a table whose `kind` says which configuration the rest of it is; `default` is the kind of a table without one.
///
/// Serde's own enums of this form keep no record of where in a table something is wrong. Here the message begins with the path from the
/// table on, as in "`mixers[1].heads`: invalid type …", also through several such tables; see [`in_place`].
///
/// # Errors
/// If it is no table, its kind is none of `kinds`, or the rest of it is not what `read` takes for that kind.
pub fn by_kind<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    kinds: &'static [&'static str],
    default: Option<&str>,
    read: impl FnOnce(&str, Fields) -> Option<Result<T, String>>,
) -> Result<T, D::Error> {
    // The kind may come last, so the table is read before it is known.
    let mut table = Map::deserialize(deserializer)?;
    let kind = match (table.remove("kind"), default) {
        (Some(Value::String(kind)), _) => kind,
        (Some(other), _) => return Err(D::Error::custom(in_place("kind", &format!("must be text, got {other}")))),
        (None, Some(default)) => default.to_owned(),
        (None, None) => return Err(D::Error::missing_field("kind")),
    };
    match read(&kind, Fields(table)) {
        Some(result) => result.map_err(D::Error::custom),
        None => Err(D::Error::unknown_variant(&kind, kinds)),
    }
}

/// What a table of [`by_kind`] holds besides its kind.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The configuration that they are.
    ///
    /// # Errors
    /// The message of serde, with the path to the field.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, String> {
        serde_path_to_error::deserialize(Value::Object(self.0)).map_err(|e| in_place(&e.path().to_string(), &e.inner().to_string()))
    }
}

/// "`path`: message"; if the message has a path already, that is the rest of this one. The path `.` is the table itself.
pub fn in_place(path: &str, message: &str) -> String {
    if path == "." {
        return message.to_owned();
    }
    match split_place(message) {
        Some((rest, message)) => format!("`{path}.{rest}`: {message}"),
        None => format!("`{path}`: {message}"),
    }
}

/// Path and message of what [`in_place`] wrote, if there is a path.
pub fn split_place(message: &str) -> Option<(&str, &str)> {
    message.strip_prefix('`')?.split_once("`: ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MixerConfig;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Network {
        mixers: Vec<MixerConfig>,
    }

    fn message(text: &str) -> String {
        let table = serde_json::from_str::<Map<String, Value>>(text).unwrap();
        Fields(table).read::<Network>().expect_err("refused")
    }

    #[test]
    fn what_is_wrong_is_told_with_its_path() {
        let read = |text: &str| message(&format!(r#"{{"mixers": [{{"kind": "softmax", "heads": 2}}, {text}]}}"#));
        assert_eq!(read(r#"{"kind": "flow", "heads": "two"}"#), "`mixers[1].heads`: invalid type: string \"two\", expected usize");
        assert_eq!(read(r#"{"heads": 2}"#), "`mixers[1]`: missing field `kind`");
        assert_eq!(read(r#"{"kind": "flow"}"#), "`mixers[1]`: missing field `heads`");
        assert_eq!(read(r#"{"kind": 3}"#), "`mixers[1].kind`: must be text, got 3");
        assert!(read(r#"{"kind": "sofmax"}"#).starts_with("`mixers[1]`: unknown variant `sofmax`, expected one of `flow`"));
        let unknown = read(r#"{"kind": "flow", "heads": 2, "hed": 1}"#);
        assert!(unknown.starts_with("`mixers[1].hed`: unknown field `hed`, expected one of"), "{unknown}");
        assert!(message(r#"{"mixers": 3}"#).starts_with("`mixers`: invalid type: integer `3`"));
    }
}
