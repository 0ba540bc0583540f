SELECT machine_id, metric, sum(source_rows)::int8 AS source_rows, count(*) AS found,
       array_send(array_agg(bucket)) AS instants, array_send(array_agg(coalesce(value, 'NaN'))) AS values
FROM (
  SELECT machine_id, metric, date_bin($6::interval, hour, TIMESTAMPTZ '2000-01-03 00:00:00+00') AS bucket,
         CASE WHEN count(part) = count(*) THEN sum(part) END AS value, sum(readings) AS source_rows
  FROM (
    SELECT machine_id, metric, bucket AS hour, total AS part, readings
    FROM rollups WHERE machine_id = ANY($1::text[]) AND ($4::text[] IS NULL OR metric = ANY($4))
      AND bucket >= greatest($2::timestamptz, $7) AND bucket < least($3::timestamptz, $8)
  ) AS hours
  GROUP BY machine_id, metric, bucket
  LIMIT $5
) AS buckets
GROUP BY machine_id, metric
