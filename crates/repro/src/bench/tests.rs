use burn::tensor::Device;

use super::*;

fn small() -> BenchConfig {
    BenchConfig { heads: 2, lengths: vec![32, 16], width: 8, seconds: 0.0, ..BenchConfig::default() }
}

#[test]
fn every_kind_of_mixer_has_an_operation_that_runs_both_ways() {
    let mut seen = Vec::new();
    let bench = bench(&small(), &Device::flex(), None, &mut |row| seen.push(row.clone())).unwrap();
    assert_eq!(seen, bench.rows);
    assert_eq!(bench.rows.len(), super::OPERATIONS.len() * 2 * 2);
    for row in &bench.rows {
        assert!(row.seconds > 0.0 && row.copy_share > 0.0 && row.matmul_share > 0.0, "{row:?}");
    }
    assert!(bench.growth.iter().all(|g| g.range == [16, 32] && g.exponent.is_some()));
}

#[test]
fn bytes_and_operations_follow_from_the_shapes() {
    let config = BenchConfig { mixers: vec!["softmax".into()], lengths: vec![16], ..small() };
    let bench = bench(&config, &Device::flex(), None, &mut |_| ()).unwrap();
    let tensor = 2 * 16 * 8 * 4;
    assert_eq!(bench.rows[0].bytes, 4 * tensor);
    assert_eq!(bench.rows[1].bytes, (3 * 3 + 2) * tensor);
    // Pairs of a causal matrix, two heads, two products of width 8.
    assert!((bench.rows[0].flops - 2.0 * 2.0 * 2.0 * (16.0 * 17.0 / 2.0) * 8.0).abs() < 1e-6);
}

#[test]
fn the_table_and_the_page_hold_every_row() {
    let bench = bench(&small(), &Device::flex(), None, &mut |_| ()).unwrap();
    let table = bench.table();
    assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
    let page = html(&bench);
    assert!(super::OPERATIONS.iter().all(|kind| page.contains(kind)));
    assert!(!page.contains("http"));
    let json = serde_json::to_value(&bench).unwrap();
    for key in ["mixer", "direction", "tokens", "seconds", "bytes", "copy_share", "matmul_share"] {
        assert!(!json["rows"][0][key].is_null(), "{key}");
    }
}

#[test]
fn wrong_configurations_are_errors() {
    let error = BenchConfig { mixers: vec!["sofmax".into()], ..small() }.validate().unwrap_err();
    assert_eq!(error.hint().unwrap(), "did you mean `softmax`?");
    let error = BenchConfig { lengths: vec![0], ..small() }.validate().unwrap_err();
    assert_eq!(error.to_string(), "`lengths` must be at least 1, got 0");
    assert!("sideways".parse::<Direction>().is_err() && "f8".parse::<Number>().is_err());
}
