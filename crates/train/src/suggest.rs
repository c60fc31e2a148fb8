//! "Did you mean …?"

/// The candidate that `word` is most likely a misspelling of, if any is close enough.
///
/// ```
/// assert_eq!(regard_train::suggest::closest("sofmax", ["softmax", "flow"]), Some("softmax"));
/// assert_eq!(regard_train::suggest::closest("transformer", ["softmax", "flow"]), None);
/// ```
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The known name meant by a message of serde like "unknown field `stps`, expected one of `steps`, `tokens`".
pub fn from_serde(message: &str) -> Option<String> {
    let unknown = &message[message.find("unknown field").or_else(|| message.find("unknown variant"))?..];
    let mut quoted = unknown.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    closest(word, quoted).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_suggests_the_field_it_resembles() {
        let message = "unknown field `stps`, expected one of `steps`, `tokens`";
        assert_eq!(from_serde(message).as_deref(), Some("steps"));
        assert_eq!(from_serde("unknown variant `sofmax`, expected `softmax`").as_deref(), Some("softmax"));
        assert_eq!(from_serde("unknown field `zzz`, expected one of `steps`, `tokens`"), None);
        assert_eq!(from_serde("missing field `steps`"), None);
    }
}
