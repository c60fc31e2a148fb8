use std::thread;

use super::*;

#[test]
fn trainings_side_by_side_have_the_numbers_of_trainings_alone() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let loss =
        |name: &str, seed| train(&RunConfig { seed, ..recall() }, &place.path().join(format!("{name}-{seed}"))).evaluation.unwrap().loss;
    let one_by_one: Vec<_> = (1..=6).map(|seed| loss("alone", seed)).collect();
    let together: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (1..=6)
            .map(|seed| {
                let loss = &loss;
                scope.spawn(move || loss("beside", seed))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(one_by_one, together);
    assert!(one_by_one.windows(2).all(|pair| pair[0] != pair[1]), "each seed has numbers of its own");
}
