<?php
// Follows the ring of data that stays in this server's memory: every read depends on the one before.
require __DIR__ . '/memory.php';

function follow(FFI\CData $data, int $position, int $reads): int
{
    for ($i = 0; $i < $reads; $i++) {
        $position = $data[$position];
    }
    return $position;
}

echo follow(resident(file_of_request()), (int) $_GET['from'], (int) $_GET['reads']), "\n";
