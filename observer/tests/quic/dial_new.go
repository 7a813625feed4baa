//go:build !quic029

package main

import (
	"context"
	"crypto/tls"
	"fmt"

	"github.com/quic-go/quic-go"
)

var rejected = quic.Err0RTTRejected

func serve(address string) {
	c := config()
	c.Certificates = []tls.Certificate{certificate()}
	listener, err := quic.ListenAddrEarly(address, c, &quic.Config{Allow0RTT: true})
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
	q, err := quic.DialAddr(ctx, address, c, &quic.Config{})
	check(err)
	return &connection{
		open:  func() (stream, error) { return q.OpenStreamSync(ctx) },
		close: func() { _ = q.CloseWithError(0, "bye") },
	}
}

func dialEarly(ctx context.Context, address string, c *tls.Config) *connection {
	q, err := quic.DialAddrEarly(ctx, address, c, &quic.Config{})
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

func cancel(s stream) {
	it := s.(interface {
		CancelRead(quic.StreamErrorCode)
		CancelWrite(quic.StreamErrorCode)
	})
	it.CancelRead(1)
	it.CancelWrite(1)
}
