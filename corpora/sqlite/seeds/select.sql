SELECT 1 + 2 * 3, 'text' || 'more', x'00ff', NULL, 1.5e3, -7 % 3, 5 / 2, 1 << 4;
