SELECT machine_id, metric, sum(source_rows)::int8 AS source_rows, count(*) AS found,
       array_send(array_agg(bucket)) AS instants, array_send(array_agg(coalesce(value, 'NaN'))) AS values
FROM (
  SELECT machine_id, metric, date_bin($6::interval, hour, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS bucket,
         CASE WHEN count(part) = count(*) THEN sum(part) / sum(readings) END AS value, sum(readings) AS source_rows
  FROM (
    SELECT machine_id, metric, date_bin('1 hour', timestamp, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS hour, sum(value) AS part, count(*) AS readings
    FROM (
  SELECT machine_id, timestamp, metric, value::float8 AS value
  FROM raw_measurements CROSS JOIN LATERAL jsonb_each(metrics) AS each (metric, value)
  WHERE machine_id = ANY($1::text[]) AND timestamp >= $2 AND timestamp < $7 AND $4::text[] IS NULL
    ) AS values
    GROUP BY machine_id, metric, hour
    UNION ALL
    SELECT machine_id, metric, date_bin('1 hour', timestamp, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS hour, sum(value) AS part, count(*) AS readings
    FROM (
  SELECT machine_id, timestamp, metric, value::float8 AS value
  FROM raw_measurements CROSS JOIN LATERAL jsonb_each(metrics) AS each (metric, value)
  WHERE machine_id = ANY($1::text[]) AND timestamp >= $8 AND timestamp < $3 AND $4::text[] IS NULL
    ) AS values
    GROUP BY machine_id, metric, hour
    UNION ALL
    SELECT machine_id, metric, date_bin('1 hour', timestamp, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS hour, sum(value) AS part, count(*) AS readings
    FROM (
  SELECT machine_id, timestamp, metric, value::float8 AS value
  FROM raw_measurements CROSS JOIN LATERAL jsonb_each(metrics) AS each (metric, value)
  WHERE machine_id = ANY($1::text[]) AND timestamp >= $11 AND timestamp < $12
      AND (machine_id, date_bin('1 hour', timestamp, TIMESTAMPTZ '2000-01-03 00:00:00+00')) IN (SELECT * FROM unnest($9::text[], $10::timestamptz[])) AND $4::text[] IS NULL
    ) AS values
    GROUP BY machine_id, metric, hour
    UNION ALL
    SELECT machine_id, metric, bucket AS hour, total AS part, readings
    FROM rollups WHERE machine_id = ANY($1::text[]) AND ($4::text[] IS NULL OR metric = ANY($4))
      AND bucket >= greatest($2::timestamptz, $7) AND bucket < least($3::timestamptz, $8)
      AND (machine_id, bucket) NOT IN (SELECT * FROM unnest($9::text[], $10::timestamptz[]))
  ) AS hours
  GROUP BY machine_id, metric, bucket
  LIMIT $5
) AS buckets
GROUP BY machine_id, metric
