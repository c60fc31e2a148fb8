use burn::{module::Module, tensor::Tensor};
use regard_testkit::{Sampler, assert_close, cpu, sweep};

use super::{Inputs, any_mask, assert_all_close, with_gradients};
use crate::{
    LayerPlace,
    nprf::{NprfAlgorithm, NprfImageConfig, NprfOptions, nprf, nprf_grid, reference},
};

/// The table of a grid instead of that of a line, and three numbers of a class token behind it if there is one.
fn table(x: &Tensor<2>, rows: usize, columns: usize, class: bool) -> (Tensor<3>, Option<Tensor<2>>) {
    let h = x.dims()[0];
    let taps = (2 * rows - 1) * (2 * columns - 1);
    (x.clone().narrow(1, 0, taps).reshape([h, 2 * rows - 1, 2 * columns - 1]), class.then(|| x.clone().narrow(1, taps, 3)))
}

#[test]
fn both_algorithms_equal_the_definition_on_grids_with_gradients() {
    sweep("nprf_grid", 40, |s| {
        let (b, h, rows, columns, class) = (s.size(1, 2), s.size(1, 3), s.size(1, 7), s.size(1, 7), s.flip());
        let n = rows * columns + usize::from(class);
        let mut inputs = Inputs::any(s, [b, h, n]);
        inputs.bias = s.tensor([h, (2 * rows - 1) * (2 * columns - 1) + 3], -2.0, 2.0).f64(&cpu());
        let key_mask = s.flip().then(|| any_mask(s, b, n));
        let normalised = s.flip();
        let want = with_gradients(&inputs, 1, |x| {
            let (bias, class) = table(&x.bias, rows, columns, class);
            let bias = reference::grid_bias_matrix(bias, class);
            let hidden = key_mask.clone().map(|m| m.reshape([b, 1, 1, n]).expand([b, h, n, n]));
            let (o, den) = reference::dense(x.q, x.k, x.v, x.projection, Some(bias), hidden, normalised);
            let blind = den.clone().equal_elem(0);
            (o, den.mask_fill(blind.clone(), 1.0).log().mask_fill(blind, f64::NEG_INFINITY))
        });
        for algorithm in [NprfAlgorithm::Dense, NprfAlgorithm::Fft] {
            let options = NprfOptions { algorithm, normalised, key_mask: key_mask.clone(), ..NprfOptions::default() };
            let run = |x: &Inputs| {
                with_gradients(x, 1, |x| {
                    let (bias, class) = table(&x.bias, rows, columns, class);
                    nprf_grid(x.q, x.k, x.v, x.projection, bias, class, &options).unwrap()
                })
            };
            assert_all_close(&format!("{algorithm:?} in f64"), &run(&inputs), &want, 1e-9);
            assert_all_close(&format!("{algorithm:?} in f32"), &run(&inputs.clone().f32()), &want, 3e-4);
        }
    });
}

#[test]
fn a_grid_of_one_row_is_a_line() {
    let mut s = Sampler::new(2);
    let x = Inputs::draw(&mut s, [2, 2, 11, 4, 3, 5]);
    let options = NprfOptions::default();
    let (line, _) = nprf(x.q.clone(), x.k.clone(), x.v.clone(), x.projection.clone(), Some(x.bias.clone()), &options).unwrap();
    for shape in [[2, 1, 21], [2, 21, 1]] {
        let (grid, _) =
            nprf_grid(x.q.clone(), x.k.clone(), x.v.clone(), x.projection.clone(), x.bias.clone().reshape(shape), None, &options).unwrap();
        assert_close("one row or column", &grid, &line, 1e-12);
    }
}

#[test]
fn the_layer_takes_the_tokens_of_its_grid() {
    let mut s = Sampler::new(3);
    for class_token in [false, true] {
        let config = NprfImageConfig { class_token, features: Some(5), ..NprfImageConfig::new(2, 3, 4) };
        let layer = config.init(8, LayerPlace::ONLY, &cpu()).unwrap();
        let n = 12 + usize::from(class_token);
        assert_eq!(layer.num_params(), 4 * (8 * 8 + 8) + 2 * 5 * 7 + if class_token { 2 * 3 } else { 0 });
        let x = s.tensor([2, n, 8], -1.0, 1.0).f32(&cpu());
        let y = layer.forward(x.clone(), None).unwrap();
        assert_close("alone", &y.clone().narrow(0, 1, 1), &layer.forward(x.clone().narrow(0, 1, 1), None).unwrap(), 1e-6);
        let error = layer.forward(x.narrow(1, 0, n - 1), None).unwrap_err().to_string();
        assert!(error.starts_with("nprf_grid: `bias` must be of shape"), "{error}");
    }
    let read = serde_json::from_str::<NprfImageConfig>(r#"{"heads": 2, "rows": 3, "columns": 4}"#).unwrap();
    assert_eq!(read, NprfImageConfig::new(2, 3, 4));
    let error = |config: NprfImageConfig| config.init(8, LayerPlace::ONLY, &cpu()).unwrap_err().to_string();
    assert_eq!(error(NprfImageConfig::new(3, 3, 4)), "nprf_image: `heads` must be a divisor of d_model = 8, got 3");
    assert_eq!(error(NprfImageConfig::new(2, 0, 4)), "nprf_image: `rows` must be at least 1, got 0");
}
