SELECT machine_id, metric, sum(source_rows)::int8 AS source_rows, count(*) AS found,
       array_send(array_agg(bucket)) AS instants, array_send(array_agg(coalesce(value, 'NaN'))) AS values
FROM (
  SELECT machine_id, metric, date_bin($6::interval, timestamp, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS bucket,
         sum(value) / count(value) AS value, count(*) AS source_rows
  FROM (
    SELECT machine_id, timestamp, metric, (metrics -> metric)::float8 AS value
    FROM raw_measurements JOIN unnest($4::text[]) AS metric ON metrics ? metric
    WHERE machine_id = ANY($1::text[]) AND timestamp >= $2 AND timestamp < $3
  ) AS values
  GROUP BY machine_id, metric, bucket
  LIMIT $5
) AS buckets
GROUP BY machine_id, metric
