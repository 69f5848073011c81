<?php
// Follows the ring of data that stays in this server's memory: every read depends on the one before.
// Between two visits to its data a page waits, as for a database; while one waits, another server runs.
$at = empty($_GET['own']) ? 0x600000000000 : 0x610000000000; // as in memory.php
$position = (int) $_GET['from'];
for ($visit = (int) $_GET['visits']; $visit > 0; $visit--) {
    $position = follow(FFI::cast('int64_t *', $at), $position, (int) $_GET['reads']);
    if ($visit > 1) {
        usleep(1);
    }
}
echo $position, "\n";

// Eight reads to a turn, so that what the interpreter itself does for each is little.
function follow(FFI\CData $data, int $position, int $reads): int
{
    for (; $reads >= 8; $reads -= 8) {
        $position = $data[$data[$data[$data[$data[$data[$data[$data[$position]]]]]]]];
    }
    for (; $reads > 0; $reads--) {
        $position = $data[$position];
    }
    return $position;
}
