SELECT machine_id, metric, count(*) AS source_rows, count(*) AS found,
       array_send(array_agg(timestamp)) AS instants, string_agg(value, ',') AS values
FROM (
  SELECT machine_id, timestamp, metric, value::text AS value
  FROM raw_measurements CROSS JOIN LATERAL jsonb_each(metrics) AS each (metric, value)
  WHERE machine_id = ANY($1::text[]) AND timestamp >= $2 AND timestamp < $3 AND $4::text[] IS NULL
  LIMIT $5
) AS values
GROUP BY machine_id, metric
