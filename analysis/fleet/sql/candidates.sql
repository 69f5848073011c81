-- One content for each group with the same samples and about as many holders (by digits and first digit). A family that
-- differs between VMs, as systems of different updates do, gives several.
WITH counted AS (
    SELECT hash, sample_1, sample_2, sample_3,
           LENGTH(CAST(holders AS VARCHAR(20))) AS digits, SUBSTR(CAST(holders AS VARCHAR(20)), 1, 1) AS digit
    FROM signed
), alike AS (
    SELECT MIN(hash) AS leader, COUNT(*) AS contents
    FROM counted
    GROUP BY sample_1, sample_2, sample_3, digits, digit
    HAVING COUNT(*) >= {family_kept}
)
SELECT CAST(ROW_NUMBER() OVER (ORDER BY contents DESC, leader DESC) AS INT) AS place, leader FROM alike
