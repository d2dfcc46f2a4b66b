// Package kmstest is a KMS v2 plugin for tests, in the process of the test or
// in one of its own. Its keys follow from their ids, so that one plugin reads
// what another wrote. It misbehaves as it is told.
package kmstest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	kmsapi "k8s.io/kms/apis/v2"
)

// Plugin answers on a socket. The zero value of its behaviour is good.
type Plugin struct {
	kmsapi.UnimplementedKeyManagementServiceServer
	// Socket is where it answers.
	Socket string

	mu       sync.Mutex
	behave   Behaviour
	encrypts int
	decrypts int
	server   *grpc.Server
	end      chan struct{}
}

// Behaviour is what a plugin does.
type Behaviour struct {
	// KeyID names the key that encrypts; "1" if empty.
	KeyID string
	// Hang: no call is answered.
	Hang bool
	// Status, Encrypt and Decrypt change answers; nil: they stay.
	Status  func(*kmsapi.StatusResponse)
	Encrypt func(*kmsapi.EncryptResponse)
	Decrypt func(*kmsapi.DecryptResponse)
	// Refuse is the error of Decrypt; nil: none.
	Refuse error
}

// New returns a plugin that does not answer yet. Its socket is in a folder of
// its own.
func New(t testing.TB) *Plugin {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	p := &Plugin{Socket: filepath.Join(dir, "s")}
	t.Cleanup(func() {
		p.Stop()
		os.RemoveAll(dir)
	})
	return p
}

// Start makes p answer.
func (p *Plugin) Start(t testing.TB) {
	t.Helper()
	l, err := p.listen()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.server.Serve(l) }() // it ends by Stop
}

func (p *Plugin) listen() (net.Listener, error) {
	if err := os.RemoveAll(p.Socket); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server, p.end = grpc.NewServer(grpc.MaxSendMsgSize(64<<20)), make(chan struct{})
	kmsapi.RegisterKeyManagementServiceServer(p.server, p)
	return l, nil
}

// Stop makes p answer no more.
func (p *Plugin) Stop() {
	p.mu.Lock()
	server, end := p.server, p.end
	p.server = nil
	p.mu.Unlock()
	if server != nil {
		close(end)
		server.GracefulStop() // a call that is under way would else end in another way than those after it
	}
}

// Behave changes what p does from now on.
func (p *Plugin) Behave(b Behaviour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behave = b
}

// Calls are how often p was asked to encrypt and to decrypt.
func (p *Plugin) Calls() (encrypts, decrypts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.encrypts, p.decrypts
}

// now is what to do; it does not return while p hangs.
func (p *Plugin) now(ctx context.Context) Behaviour {
	p.mu.Lock()
	b, end := p.behave, p.end
	p.mu.Unlock()
	if b.Hang {
		select {
		case <-ctx.Done():
		case <-end:
		}
	}
	if b.KeyID == "" {
		b.KeyID = "1"
	}
	return b
}

// Status serves the call.
func (p *Plugin) Status(ctx context.Context, _ *kmsapi.StatusRequest) (*kmsapi.StatusResponse, error) {
	b := p.now(ctx)
	answer := &kmsapi.StatusResponse{Version: "v2", Healthz: "ok", KeyId: b.KeyID}
	if b.Status != nil {
		b.Status(answer)
	}
	return answer, nil
}

// Encrypt serves the call.
func (p *Plugin) Encrypt(ctx context.Context, r *kmsapi.EncryptRequest) (*kmsapi.EncryptResponse, error) {
	p.mu.Lock()
	p.encrypts++
	p.mu.Unlock()
	b := p.now(ctx)
	aead, err := key(b.KeyID)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // it never fails
	answer := &kmsapi.EncryptResponse{
		Ciphertext: aead.Seal(nonce, nonce, r.Plaintext, nil), KeyId: b.KeyID,
		Annotations: map[string][]byte{"kmstest.skiff.example.com": []byte("note")},
	}
	if b.Encrypt != nil {
		b.Encrypt(answer)
	}
	return answer, nil
}

// Decrypt serves the call.
func (p *Plugin) Decrypt(ctx context.Context, r *kmsapi.DecryptRequest) (*kmsapi.DecryptResponse, error) {
	p.mu.Lock()
	p.decrypts++
	p.mu.Unlock()
	b := p.now(ctx)
	if b.Refuse != nil {
		return nil, b.Refuse
	}
	if string(r.Annotations["kmstest.skiff.example.com"]) != "note" {
		return nil, status.Error(codes.InvalidArgument, "the annotation is missing")
	}
	aead, err := key(r.KeyId)
	if err != nil {
		return nil, err
	}
	size := aead.NonceSize()
	if len(r.Ciphertext) < size {
		return nil, status.Error(codes.InvalidArgument, "too short")
	}
	plain, err := aead.Open(nil, r.Ciphertext[:size], r.Ciphertext[size:], nil)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	answer := &kmsapi.DecryptResponse{Plaintext: plain}
	if b.Decrypt != nil {
		b.Decrypt(answer)
	}
	return answer, nil
}

func key(id string) (cipher.AEAD, error) {
	sum := sha256.Sum256([]byte("kmstest " + id))
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// socketVariable tells a process that it is to be a plugin.
const socketVariable = "SKIFF_KMSTEST_SOCKET"

// Main runs a plugin instead of the tests if Process has started this program.
// It is called by TestMain before anything else.
func Main() {
	socket := os.Getenv(socketVariable)
	if socket == "" {
		return
	}
	p := &Plugin{Socket: socket}
	l, err := p.listen()
	if err == nil {
		err = p.server.Serve(l)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Process starts a plugin as a process of its own at the socket of p. It dies
// with the test, or by Kill.
func (p *Plugin) Process(t testing.TB) *os.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), socketVariable+"="+p.Socket)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead
		_ = cmd.Wait()
	})
	return cmd.Process
}
