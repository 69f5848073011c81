<?php
echo "ready\n";
