// A server of QUIC that accepts 0-RTT, and a client that is rejected or not, for the tests of what is
// counted of that. Built against several versions of quic-go; what their interfaces differ in is in
// dial_*.go.
//
//	zrtt server ADDRESS          prints "listening ADDRESS", and ends with its input
//	zrtt client ADDRESS WAY [N]  WAY is what it does when its early data is rejected:
//	                             resume   goes on with NextConnection
//	                             ahead    called that before
//	                             cancel   cancels the old stream, then goes on
//	                             stopped  has the server stop a stream of another connection, then goes on
//	                             forget   does not go on, and closes the connection after a line
//	                             give-up  waits for no answer, and closes the connection after a line
//
// The client connects twice. Between, it prints "restart" and waits for a line: a server that is restarted
// has new ticket keys, and rejects what comes with the old ticket. It prints "sent" when it has early data: a server that
// is there before may reject it while it is being written. With N it does all this N times at once, and so prints and
// takes N lines where there would be one.
//
// As servers of HTTP/3 do, the server listens with TCP, too: an observer finds that at once.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// patience ends a program that a test has left behind.
const patience = 10 * time.Minute

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func config() *tls.Config {
	return &tls.Config{NextProtos: []string{"echo"}}
}

// stream is what all versions have in common.
type stream interface {
	io.ReadWriteCloser
}

// stopping is what the client writes to have a stream stopped.
const stopping = "stop!"

// echo answers each stream with what it has read.
func echo(accept func(context.Context) (stream, error)) {
	for {
		s, err := accept(context.Background())
		if err != nil {
			return
		}
		go func() {
			first := make([]byte, len(stopping))
			_, err := io.ReadFull(s, first)
			if string(first) == stopping {
				cancelRead(s)
				return
			}
			rest, _ := io.ReadAll(s)
			if err == nil {
				_, _ = s.Write(append(first, rest...))
			}
			_ = s.Close()
		}()
	}
}

func main() {
	time.AfterFunc(patience, func() { os.Exit(3) })
	if len(os.Args) < 3 {
		os.Exit(2)
	}
	input := bufio.NewScanner(os.Stdin)
	if os.Args[1] == "server" {
		_, err := net.Listen("tcp", os.Args[2])
		check(err)
		go serve(os.Args[2])
		for input.Scan() {
		}
		return
	}
	clients := 1
	if len(os.Args) > 4 {
		var err error
		clients, err = strconv.Atoi(os.Args[4])
		check(err)
	}
	// Each has lines of its own: the first, the second and so on of each N.
	lines := make([]chan struct{}, clients)
	for i := range lines {
		lines[i] = make(chan struct{}, 10)
	}
	go func() {
		for line := 0; input.Scan(); line++ {
			lines[line%clients] <- struct{}{}
		}
		for _, its := range lines {
			close(its)
		}
	}()
	var running sync.WaitGroup
	for _, its := range lines {
		running.Add(1)
		go func(its chan struct{}) {
			defer running.Done()
			client(os.Args[2], os.Args[3], func() { <-its })
		}(its)
	}
	running.Wait()
}

func client(address, way string, wait func()) {
	ctx := context.Background()
	c := config()
	c.InsecureSkipVerify = true
	c.ServerName = "localhost"
	tickets := &cache{tls.NewLRUClientSessionCache(1), make(chan struct{}, 10)}
	c.ClientSessionCache = tickets

	first := dial(ctx, address, c)
	check(exchange(first.open, "first"))
	<-tickets.stored
	first.close()
	fmt.Println("restart")
	wait()

	early := dialEarly(ctx, address, c)
	s, err := early.open()
	check(err)
	_, err = s.Write([]byte("early"))
	check(err)
	next := early.next
	if way == "ahead" {
		calls, called := make(chan struct{}), make(chan error, 1)
		go func() {
			calls <- struct{}{}
			called <- early.next(ctx)
		}()
		<-calls
		next = func(context.Context) error { return <-called }
	}
	fmt.Println("sent")
	if way == "give-up" {
		wait()
		early.close()
		fmt.Println("closed")
		finish(wait)
		return
	}
	// Without the end of the stream: what is cancelled must not be complete.
	if early.accepted(ctx) {
		_ = s.Close()
		data, err := io.ReadAll(s)
		fmt.Printf("accepted %q\n", data)
		check(err)
		early.close()
		finish(wait)
		return
	}
	_, err = s.Read(make([]byte, 1))
	if !errors.Is(err, rejected) {
		check(fmt.Errorf("the early stream is not rejected: %v", err))
	}
	fmt.Println("rejected")
	switch way {
	case "forget":
		finish(wait)
		early.close()
		fmt.Println("closed")
		wait()
		return
	case "cancel":
		cancelRead(s)
		cancelWrite(s)
	case "stopped":
		without := c.Clone()
		without.ClientSessionCache = nil
		other := dial(ctx, address, without)
		s, err := other.open()
		check(err)
		_, err = s.Write([]byte(stopping))
		check(err)
		<-s.(interface{ Context() context.Context }).Context().Done()
	}
	check(next(ctx))
	fmt.Println("resumed:", exchange(early.open, "second"))
	early.close()
	finish(wait)
}

// finish lets the test look at the process before it ends.
func finish(wait func()) {
	fmt.Println("done")
	wait()
}

// exchange sends a line on a new stream and reads the echo.
func exchange(open func() (stream, error), text string) error {
	s, err := open()
	if err != nil {
		return err
	}
	if _, err := s.Write([]byte(text)); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	data, err := io.ReadAll(s)
	if err == nil && string(data) != text {
		err = fmt.Errorf("got %q", data)
	}
	return err
}

// cache tells when a ticket has come.
type cache struct {
	tls.ClientSessionCache
	stored chan struct{}
}

func (c *cache) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	if state != nil {
		select {
		case c.stored <- struct{}{}:
		default:
		}
	}
}
