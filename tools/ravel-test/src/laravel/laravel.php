<?php
// Laravel's queue by itself, as its own worker and producer use it.
//
//   laravel.php work PORT QUEUE OUT RETRY_AFTER TRIES
//       Laravel's worker, until the queue is empty: a line of JSON in the file OUT for each job that it runs.
//   laravel.php push PORT QUEUE FIRST COUNT DELAY
//       Pushes that many jobs, numbered, through Laravel.
//   laravel.php drain PORT QUEUE
//       The plain loop to compare with: BLPOP and json_decode, until the queue is empty.

error_reporting(E_ALL & ~E_DEPRECATED);
[, $what, $port, $queue] = $argv;
if ($what === 'drain') {
    $redis = new Redis();
    $redis->connect('127.0.0.1', (int) $port);
    while ($redis->blPop(["queues:$queue"], 0.1)) {
        RavelEvent::$count++;
    }
    exit(0);
}

foreach (['Queue', 'Redis', 'Events', 'Container'] as $part) {
    require_once "/usr/share/php/Illuminate/$part/autoload.php";
}

use Illuminate\Container\Container;
use Illuminate\Contracts\Debug\ExceptionHandler;
use Illuminate\Events\Dispatcher;
use Illuminate\Queue\Capsule\Manager;
use Illuminate\Queue\Connectors\RedisConnector;
use Illuminate\Queue\Worker;
use Illuminate\Queue\WorkerOptions;
use Illuminate\Redis\RedisManager;

/** What runs for the jobs of `ravel forward`, and for those that `push` pushes. */
class RavelEvent
{
    public static $count = 0;
    public static $out = null;

    public function handle($job, $data)
    {
        self::$count++;
        if (self::$out) {
            $line = ['id' => $job->getJobId(), 'attempts' => $job->attempts(), 'data' => $data];
            fwrite(self::$out, json_encode($line) . "\n");
        }
        if (!empty($data['fails'])) {
            throw new RuntimeException('as it was told to');
        }
        $job->delete();
    }
}

$app = new Container();
Container::setInstance($app);
$events = new Dispatcher($app);
$app->instance('events', $events);
$app->instance(Illuminate\Contracts\Events\Dispatcher::class, $events);
$server = ['host' => '127.0.0.1', 'port' => (int) $port, 'database' => 0, 'read_timeout' => 60];
$app->instance('redis', $redis = new RedisManager($app, 'phpredis', ['default' => $server]));
$capsule = new Manager($app);
$manager = $capsule->getQueueManager();
$manager->addConnector('redis', fn () => new RedisConnector($redis));
$capsule->addConnection([
    'driver' => 'redis', 'connection' => 'default', 'queue' => $queue, 'retry_after' => (int) ($argv[5] ?? 90),
]);

if ($what === 'push') {
    for ($at = (int) $argv[4]; $at < $argv[4] + $argv[5]; $at++) {
        $data = ['number' => $at, 'list' => [], 'large' => 1234567890123456789];
        if ($argv[6] > 0) {
            $manager->connection()->later((int) $argv[6], 'RavelEvent@handle', $data);
        } else {
            $manager->connection()->push('RavelEvent@handle', $data);
        }
    }
    exit(0);
}

$quiet = new class implements ExceptionHandler {
    public function report(Throwable $e) { fwrite(STDERR, get_class($e) . ': ' . $e->getMessage() . "\n"); }
    public function shouldReport(Throwable $e) { return true; }
    public function render($request, Throwable $e) {}
    public function renderForConsole($output, Throwable $e) {}
};
if ($argv[4] !== '-') {
    RavelEvent::$out = fopen($argv[4], 'a');
}
$worker = new Worker($manager, $events, $quiet, fn () => false);
$options = new WorkerOptions(sleep: 0, maxTries: (int) $argv[6], stopWhenEmpty: true);
exit($worker->daemon('default', $queue, $options));
