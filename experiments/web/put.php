<?php
// Takes the body of the request as one of the server's files.
const FILES = ['data.bin', 'own.bin'];

$file = $_GET['file'];
if (!in_array($file, FILES, true)) {
    throw new RuntimeException("no file $file is kept here");
}
echo 'stored ', file_put_contents(__DIR__ . '/../' . $file, fopen('php://input', 'rb')), "\n";
