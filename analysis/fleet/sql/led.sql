-- Which VMs hold the leader of a family.
SELECT c.vm_key, l.place, l.holders FROM common AS c JOIN leaders AS l ON c.hash = l.leader
