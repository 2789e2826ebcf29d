SELECT date('2020-02-29', '+1 year', 'start of month'), strftime('%Y-%j %H:%M:%f', 2451545.5),
julianday('2000-01-01 12:00:00'), datetime(1000000000, 'unixepoch', 'weekday 0');
