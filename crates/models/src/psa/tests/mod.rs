mod decoding;
mod networks;
