#!/usr/bin/perl
# A server without support for cutover: server.pl PORT. The server shares its port, answers each request with its pid,
# and keeps connections alive. At SIGTERM the server closes its listener, answers one more request on each connection,
# and ends.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;

use constant IDLE => 5;    # s that a connection may keep a stop waiting
use constant PAUSE => $ENV{ACCEPT_PAUSE} || 0;    # s after each accept: the next connections wait in the queue

my $stopping;
$SIG{TERM} = sub { $stopping //= time };
$SIG{PIPE} = 'IGNORE';
my $listener = IO::Socket::INET->new(
    LocalAddr => '0.0.0.0', LocalPort => $ARGV[0], Listen => 1024, ReusePort => 1, Blocking => 0,
) or die "cannot listen on $ARGV[0]: $@\n";
my $open = IO::Select->new($listener);
my %come;                  # what has come of the next request, by connection

sub leave {
    my ($connection) = @_;
    $open->remove($connection);
    delete $come{$connection};
    close $connection;
}

while ($open->count) {
    # A signal that comes just before can_read does not interrupt the wait, so can_read has a timeout.
    for my $ready ($open->can_read(0.1)) {
        if ($listener && $ready == $listener) {
            while (my $connection = $listener->accept) {
                $open->add($connection);
                $come{$connection} = '';
                if (PAUSE) {
                    select undef, undef, undef, PAUSE;
                    last;
                }
            }
        } elsif (!sysread $ready, $come{$ready}, 4096, length $come{$ready}) {
            leave($ready);
        } elsif ($come{$ready} =~ s/^(.*?)\r\n\r\n//s) {
            my $close = $stopping || $1 =~ /^Connection: close/mi;
            my $body = "pid $$\n";
            my $last = $close ? "Connection: close\r\n" : '';
            syswrite $ready, "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\n$last\r\n$body";
            leave($ready) if $close;
        }
    }
    if ($stopping && $listener) {
        $open->remove($listener);
        close $listener;
        undef $listener;
    }
    if ($stopping && time - $stopping > IDLE) {
        leave($_) for $open->handles;
    }
}
