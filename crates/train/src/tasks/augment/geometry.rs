//! What moves pixels.

use super::Picture;

/// The image with left and right, or top and bottom, in each other's place.
pub(super) fn mirrored(picture: &Picture, vertical: bool) -> Picture {
    let [_, rows, columns] = picture.shape;
    let mut pixels = Vec::with_capacity(picture.pixels.len());
    for plane in picture.planes() {
        if vertical {
            plane.chunks(columns).rev().for_each(|row| pixels.extend(row));
        } else {
            plane.chunks(columns).for_each(|row| pixels.extend(row.iter().rev()));
        }
    }
    debug_assert_eq!(pixels.len() % (rows * columns), 0);
    picture.with(pixels)
}

/// The image whose pixel `[y, x]` is that of `[y, x] + from`.
pub(super) fn shifted(picture: &Picture, from: [isize; 2]) -> Picture {
    let [_, rows, columns] = picture.shape;
    let mut pixels = Vec::with_capacity(picture.pixels.len());
    for plane in picture.planes() {
        for y in 0..rows {
            let row = y.checked_add_signed(from[0]).and_then(|y| plane.chunks(columns).nth(y));
            pixels.extend((0..columns).map(|x| {
                let x = x.checked_add_signed(from[1]);
                row.zip(x).and_then(|(row, x)| row.get(x)).copied().unwrap_or(0)
            }));
        }
    }
    picture.with(pixels)
}

/// The image whose pixel `[y, x]`, counted from its middle, is that of `[a y + b x + c, d y + e x + f]`, between pixels by bilinear
/// interpolation.
pub(super) fn warped(picture: &Picture, [[a, b, c], [d, e, f]]: [[f32; 3]; 2]) -> Picture {
    let [_, rows, columns] = picture.shape;
    let middle = [rows, columns].map(|length| (length - 1) as f32 / 2.0);
    let mut pixels = Vec::with_capacity(picture.pixels.len());
    for plane in picture.planes() {
        let at = |y: isize, x: isize| {
            let inside = (0..rows as isize).contains(&y) && (0..columns as isize).contains(&x);
            if inside { f32::from(plane[y as usize * columns + x as usize]) } else { 0.0 }
        };
        for y in 0..rows {
            for x in 0..columns {
                let (y, x) = (y as f32 - middle[0], x as f32 - middle[1]);
                let from = [a * y + b * x + c + middle[0], d * y + e * x + f + middle[1]];
                let low = from.map(f32::floor);
                let [v, u] = [from[0] - low[0], from[1] - low[1]];
                let [y, x] = low.map(|low| low as isize);
                let above = at(y, x) * (1.0 - u) + at(y, x + 1) * u;
                let below = at(y + 1, x) * (1.0 - u) + at(y + 1, x + 1) * u;
                pixels.push((above * (1.0 - v) + below * v).round() as u8);
            }
        }
    }
    picture.with(pixels)
}
