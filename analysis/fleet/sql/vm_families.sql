-- The two families of which a VM holds most.
WITH ordered AS (
    SELECT vm_key, family_key,
           ROW_NUMBER() OVER (PARTITION BY vm_key ORDER BY kept DESC, family_key DESC) AS choice
    FROM family_vms
)
SELECT vm_key, family_key FROM ordered WHERE choice <= 2
