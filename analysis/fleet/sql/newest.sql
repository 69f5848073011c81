-- The newest sketches of each host, and a number for the host.
WITH made AS (
    SELECT DISTINCT host, run, begin_us FROM hosts
), by_age AS (
    SELECT host, run, begin_us,
           ROW_NUMBER() OVER (PARTITION BY host ORDER BY begin_us DESC, run DESC) AS age
    FROM made
)
SELECT CAST(ROW_NUMBER() OVER (ORDER BY host) AS INT) AS host_key, host, run, begin_us
FROM by_age
WHERE age = 1
