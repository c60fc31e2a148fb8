use regard::blocks::MoeConfig;

use super::*;

fn with_experts(balance_speed: f64) -> RunConfig {
    let moe = MoeConfig { balance_speed, ..MoeConfig::new(4, 1, 8) };
    RunConfig { model: DecoderConfig { moe: Some(moe), layers: 2, dense_layers: 1, ..model() }.into(), ..recall() }
}

/// The biases of the routers at the end of a run.
fn biases(dir: &Path) -> Vec<f32> {
    let model = Run::open(dir).unwrap().decoder(&Device::flex()).unwrap();
    let moes = model.blocks.iter().filter_map(|block| block.mlp.moe());
    moes.flat_map(|moe| moe.gate.e_score_correction_bias.val().into_data().iter::<f32>().collect::<Vec<_>>()).collect()
}

#[test]
fn every_training_step_moves_the_biases_of_routers_by_the_load_of_its_own_passes() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let speed = 0.25; // its multiples are exact
    for (name, speed, accumulation) in [("off", 0.0, 1), ("on", speed, 1), ("accumulated", speed, 2)] {
        let mut config = with_experts(speed);
        config.train.grad_accumulation = accumulation;
        train(&config, &place.path().join(name));
        let biases = biases(&place.path().join(name));
        assert_eq!(biases.len(), 4);
        if speed == 0.0 {
            assert_eq!(biases, [0.0; 4]);
            continue;
        }
        // One move per step whatever the number of passes and evaluations: 12 of them at most, and not back to where they began.
        assert!(biases.iter().all(|b| f64::from(*b) % speed == 0.0 && f64::from(b.abs()) <= 12.0 * speed), "{biases:?}");
        assert!(biases.iter().any(|b| *b != 0.0), "{biases:?}");
    }
}

#[test]
fn a_resumed_run_with_experts_has_the_numbers_of_one_that_was_never_stopped() {
    let _turn = alone();
    let place = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
    let config = with_experts(1e-2);
    train(&config, &whole);
    stop_after(Trainer::create(&config, &parts, &Device::flex()).unwrap(), 6);
    Trainer::resume(&parts, &Device::flex()).unwrap().run(Hooks::default()).unwrap();
    assert_eq!(numbers(&parts), numbers(&whole));
    assert_eq!(biases(&parts), biases(&whole));
}
