<?php
// Reads the data's file on each request, as the paper's program does, and follows the ring in what it
// read. The string is the request's own and is freed with it.
function file_of_request(): string
{
    return __DIR__ . (empty($_GET['own']) ? '/../data.bin' : '/../own.bin');
}

function follow(string $data, int $position, int $reads): int
{
    for ($i = 0; $i < $reads; $i++) {
        $position = unpack('P', $data, 8 * $position)[1];
    }
    return $position;
}

echo follow(file_get_contents(file_of_request()), (int) $_GET['from'], (int) $_GET['reads']), "\n";
