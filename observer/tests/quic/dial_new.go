//go:build !quic029

package main

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/quic-go/quic-go"
)

var rejected = quic.Err0RTTRejected

// patient has no limit that a test on a slow machine may reach. Clients ignore what is for servers.
func patient() *quic.Config {
	return &quic.Config{HandshakeIdleTimeout: patience, MaxIdleTimeout: patience, Allow0RTT: true}
}

func serve(address string) {
	c := config()
	c.Certificates = []tls.Certificate{certificate()}
	listener, err := quic.ListenAddrEarly(address, c, patient())
	check(err)
	fmt.Println("listening", listener.Addr())
	for {
		connection, err := listener.Accept(context.Background())
		if err != nil {
			return
		}
		go echo(func(ctx context.Context) (stream, error) { return connection.AcceptStream(ctx) })
	}
}

// connection is that of the client, whose type differs between versions.
type connection struct {
	open     func() (stream, error)
	close    func()
	accepted func(context.Context) bool
	next     func(context.Context) error
}

func dial(ctx context.Context, address string, c *tls.Config) *connection {
	q, err := quic.DialAddr(ctx, address, c, patient())
	check(err)
	return &connection{
		open:  func() (stream, error) { return q.OpenStreamSync(ctx) },
		close: func() { _ = q.CloseWithError(0, "bye") },
	}
}

func dialEarly(ctx context.Context, address string, c *tls.Config) *connection {
	q, err := quic.DialAddrEarly(ctx, address, c, patient())
	check(err)
	result := &connection{
		open:  func() (stream, error) { return q.OpenStream() },
		close: func() { _ = q.CloseWithError(0, "bye") },
		accepted: func(ctx context.Context) bool {
			select {
			case <-q.HandshakeComplete():
			case <-q.Context().Done():
				check(context.Cause(q.Context()))
			}
			return q.ConnectionState().Used0RTT
		},
	}
	result.next = func(ctx context.Context) error {
		n, err := q.NextConnection(ctx)
		if err == nil {
			result.open = func() (stream, error) { return n.OpenStreamSync(ctx) }
			result.close = func() { _ = n.CloseWithError(0, "bye") }
		}
		return err
	}
	return result
}

func cancelRead(s stream) {
	s.(interface{ CancelRead(quic.StreamErrorCode) }).CancelRead(1)
}

func cancelWrite(s stream) {
	s.(interface{ CancelWrite(quic.StreamErrorCode) }).CancelWrite(1)
}
