//! The definition, with the keys and values of the routed regions copied side by side.

use burn::tensor::{Bool, Int, Tensor, TensorData, activation};

use super::Routes;

/// `O = softmax(scale · Q Kᵀ) V`, for each token over all tokens of the regions that its own is sent to. k copies of keys and values.
///
/// # Shapes
/// - `q`, `k`: `[B, Y, X, H, K]`; `v`: `[B, Y, X, H, V]`; output: `[B, Y, X, H, V]`
pub fn gathered([q, k, v]: [Tensor<5>; 3], routes: &Routes, scale: f64) -> Tensor<5> {
    let ([b, y, x, h, _], width) = (q.dims(), v.dims()[4]);
    let (grid, device) = ([y, x], q.device());
    let regions = routes.side * routes.side;
    let tokens = |number: usize| {
        let [rows, columns] = routes.region(number, grid);
        rows.flat_map(move |row| columns.clone().map(move |column| row * x + column)).collect::<Vec<_>>()
    };
    let flat = |x: Tensor<5>| {
        let [b, y, columns, h, width] = x.dims();
        x.reshape([b * y * columns, h, width])
    };
    let pick = |x: &Tensor<3>, rows: &[usize]| {
        let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        let len = rows.len();
        let index = Tensor::<1, Int>::from_data(TensorData::new(rows, [len]), &device);
        x.clone().select(0, index).swap_dims(0, 1) // [H, rows, width]
    };
    let (q, k, v) = (flat(q), flat(k), flat(v));
    let mut outputs = Vec::new();
    let mut places = vec![0_i64; b * y * x];
    let mut count = 0;
    for (batch, region) in (0..b).flat_map(|batch| (0..regions).map(move |region| (batch, region))) {
        let here = |token: usize| batch * y * x + token;
        let queries: Vec<usize> = tokens(region).into_iter().map(here).collect();
        if queries.is_empty() {
            continue;
        }
        let sent = &routes.index[(batch * regions + region) * routes.topk..][..routes.topk];
        let keys: Vec<usize> = sent.iter().flat_map(|number| tokens(*number)).map(here).collect();
        let scores = (pick(&q, &queries) * scale).matmul(pick(&k, &keys).swap_dims(1, 2)); // [H, T, S]
        outputs.push(activation::softmax(scores, 2).matmul(pick(&v, &keys)).swap_dims(0, 1)); // [T, H, V]
        for token in queries {
            places[token] = count;
            count += 1;
        }
    }
    if outputs.is_empty() {
        return Tensor::zeros([b, y, x, h, width], (&device, v.dtype()));
    }
    let index = Tensor::<1, Int>::from_data(TensorData::new(places, [b * y * x]), &device);
    Tensor::cat(outputs, 0).select(0, index).reshape([b, y, x, h, width])
}

/// The mean of the tokens of each region; zeros for empty ones, which the mask tells. `[B, S², D]` and `[S²]`, `true` = empty
pub fn region_means(x: Tensor<4>, side: usize) -> (Tensor<3>, Tensor<1, Bool>) {
    let [b, y, columns, d] = x.dims();
    let device = x.device();
    let routes = Routes { side, topk: 0, index: std::sync::Arc::new([]) };
    let regions: Vec<_> = (0..side * side).map(|number| routes.region(number, [y, columns])).collect();
    let empty: Vec<bool> = regions.iter().map(|[rows, columns]| rows.is_empty() || columns.is_empty()).collect();
    let means = regions.into_iter().zip(&empty).map(|([rows, columns], empty)| {
        if *empty {
            return Tensor::zeros([b, 1, d], (&device, x.dtype()));
        }
        let part = x.clone().narrow(1, rows.start, rows.len()).narrow(2, columns.start, columns.len());
        part.reshape([b, rows.len() * columns.len(), d]).mean_dim(1)
    });
    let means = Tensor::cat(means.collect(), 1);
    (means, Tensor::from_data(TensorData::new(empty, [side * side]), &device))
}
