-- Which VM holds which kept content: the large one, from which all others follow. A sketch has each hash once.
SELECT v.vm_key, s.hash
FROM sketches AS s
JOIN vms AS v ON s.host = v.host AND s.run = v.run AND s.begin_us = v.begin_us AND s.vm = v.vm
