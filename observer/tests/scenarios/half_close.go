// A client ends its side, and a deferred Close() ends the connection before the answer is there. Prints what the
// programs in Python do (common.py).
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"
)

const address = "127.0.0.1:80"

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func answer(connection net.Conn) {
	defer connection.Close()
	io.Copy(io.Discard, connection)
	connection.Write([]byte("answer"))
	time.Sleep(2 * time.Millisecond)
	connection.Write([]byte("more"))
}

func serve() {
	listener, err := net.Listen("tcp", address)
	check(err)
	fmt.Println("ready")
	for {
		connection, err := listener.Accept()
		check(err)
		go answer(connection)
	}
}

func request() {
	connection, err := net.Dial("tcp", address)
	check(err)
	defer connection.Close()
	connection.Write([]byte("request"))
	connection.(*net.TCPConn).CloseWrite()
}

// CLOCK_MONOTONIC in seconds.
func monotonic() float64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return float64(now.Sec) + float64(now.Nsec)/1e9
}

// Starts this program as NAME-server, and waits until it listens.
func start(name string) {
	self, err := os.Executable()
	check(err)
	program := filepath.Join(filepath.Dir(self), name+"-server")
	check(os.Symlink(self, program))
	server := exec.Command(program, name, "server")
	output, err := server.StdoutPipe()
	check(err)
	check(server.Start())
	_, err = output.Read(make([]byte, 1))
	check(err)
}

func main() {
	if len(os.Args) > 2 {
		serve()
	}
	start(os.Args[1])
	fmt.Println("start", monotonic())
	for range time.Tick(10 * time.Millisecond) {
		go request()
	}
}
