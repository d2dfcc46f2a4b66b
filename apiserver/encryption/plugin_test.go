package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	kmsapi "k8s.io/kms/apis/v2"

	"github.com/skiff-k8s/skiff/apiserver/encryption/kmstest"
)

// kmsFile has secrets encrypted by a plugin that has timeout for its answers.
func kmsFile(t testing.TB, socket, timeout string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.yaml")
	text := fmt.Sprintf(`{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],
		"providers":[{"kms":{"apiVersion":"v2","name":"vault","endpoint":"unix://%s","timeout":%q}},{"identity":{}}]}]}`, socket, timeout)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openKMS has secrets encrypted by p.
func openKMS(t testing.TB, p *kmstest.Plugin, timeout string, times Times) *Encryption {
	t.Helper()
	e, err := Open(t.Context(), Config{File: kmsFile(t, p.Socket, timeout), Times: times})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func encrypt(t testing.TB, e *Encryption, value string) []byte {
	t.Helper()
	stored, err := e.Encrypt(t.Context(), secrets, "/k", []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func decrypt(t testing.TB, e *Encryption, stored []byte) (value string, stale bool) {
	t.Helper()
	got, stale, err := e.Decrypt(t.Context(), secrets, "/k", stored)
	if err != nil {
		t.Fatal(err)
	}
	return string(got), stale
}

// A plugin is asked once for a seed, by those who write with it and by those who
// read, and again when its key has changed; what older keys wrote is stale.
func TestPluginKeyChanges(t *testing.T) {
	p := kmstest.New(t)
	p.Start(t)
	always := Times{Well: 1, Ill: 1} // each check asks
	e, other := openKMS(t, p, "1m", always), openKMS(t, p, "1m", always)
	var stored [][]byte
	for i := range 1000 {
		stored = append(stored, encrypt(t, e, fmt.Sprint(i)))
	}
	for i, s := range stored {
		if value, stale := decrypt(t, other, s); value != fmt.Sprint(i) || stale {
			t.Fatalf("value %d: %q, stale %v", i, value, stale)
		}
	}
	if encrypts, decrypts := p.Calls(); encrypts != 2 || decrypts != 1 {
		t.Errorf("the plugin was asked to encrypt %d and to decrypt %d times", encrypts, decrypts)
	}
	p.Behave(kmstest.Behaviour{KeyID: "2"})
	if err := e.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if value, stale := decrypt(t, e, stored[7]); value != "7" || !stale {
		t.Errorf("of the old key: %q, stale %v", value, stale)
	}
	renewed := encrypt(t, e, "7")
	if !bytes.Contains(renewed, []byte("\x12\x012")) { // field 2, the id
		t.Errorf("stored %q", renewed)
	}
	if value, stale := decrypt(t, e, renewed); value != "7" || stale {
		t.Errorf("of the new key: %q, stale %v", value, stale)
	}
	if encrypts, decrypts := p.Calls(); encrypts != 3 || decrypts != 1 {
		t.Errorf("the plugin was asked to encrypt %d and to decrypt %d times", encrypts, decrypts)
	}
}

// Who reads many objects does not wait for a plugin that hangs as often, though
// each has a seed of its own; when it answers again, all are read.
func TestHangingPlugin(t *testing.T) {
	p := kmstest.New(t)
	p.Start(t)
	var stored [][]byte
	for range 50 {
		e := openKMS(t, p, "1m", Times{})
		stored = append(stored, encrypt(t, e, "value"))
		e.Close()
	}
	e := openKMS(t, p, "200ms", Times{Well: time.Hour, Ill: time.Hour})
	_, before := p.Calls()
	p.Behave(kmstest.Behaviour{Hang: true})
	for _, s := range stored {
		_, _, err := e.Decrypt(t.Context(), secrets, "/k", s)
		if status.Code(unwrapped(err)) != codes.DeadlineExceeded {
			t.Fatalf("decrypt: %v", err)
		}
	}
	if _, decrypts := p.Calls(); decrypts-before != 1 {
		t.Errorf("%d questions to a plugin that hangs", decrypts-before)
	}
	encrypt(t, e, "value") // its seed is known
	p.Behave(kmstest.Behaviour{})
	plugin := e.now.Load().plugins[0]
	changed := e.Changed()
	plugin.health.until, plugin.health.was = time.Time{}, false // as if it had been asked and had not answered
	if err := e.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-changed
	for _, s := range stored {
		decrypt(t, e, s)
	}
}

// Who does not want an answer any more does not wait for it: a server that
// stops, a client that leaves.
func TestNobodyWaitsInVain(t *testing.T) {
	p := kmstest.New(t)
	p.Start(t)
	s := encrypt(t, openKMS(t, p, "1h", Times{}), "value")
	e := openKMS(t, p, "1h", Times{})
	p.Behave(kmstest.Behaviour{Hang: true})
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := e.Decrypt(ctx, secrets, "/k", s); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A plugin that refuses one seed is not asked about it for each object, and is
// asked about others.
func TestRefusingPlugin(t *testing.T) {
	p := kmstest.New(t)
	p.Start(t)
	first, second := openKMS(t, p, "1m", Times{}), openKMS(t, p, "1m", Times{})
	e := openKMS(t, p, "1m", Times{Ill: time.Hour})
	p.Behave(kmstest.Behaviour{Refuse: status.Error(codes.PermissionDenied, "no")})
	s := encrypt(t, first, "value")
	for range 100 {
		_, _, err := e.Decrypt(t.Context(), secrets, "/k", s)
		if err == nil || err.Error() != "failed to decrypt DEK, error: rpc error: code = PermissionDenied desc = no" {
			t.Fatalf("got %v", err)
		}
	}
	if _, decrypts := p.Calls(); decrypts != 1 {
		t.Errorf("asked %d times", decrypts)
	}
	p.Behave(kmstest.Behaviour{})
	decrypt(t, e, encrypt(t, second, "value"))
}

// What a plugin may not say is not believed: nothing is written by it, the
// server says that it is not well, and what it wrote before goes on.
func TestLyingPlugin(t *testing.T) {
	long := strings.Repeat("x", 1025)
	for name, c := range map[string]struct {
		lie  kmstest.Behaviour
		want string
	}{
		"ill":              {kmstest.Behaviour{Status: func(r *kmsapi.StatusResponse) { r.Healthz = "tired" }}, "got unexpected healthz status: tired"},
		"another version":  {kmstest.Behaviour{Status: func(r *kmsapi.StatusResponse) { r.Version = "v3" }}, "expected KMSv2 API version v2, got v3"},
		"beta of a sudden": {kmstest.Behaviour{Status: func(r *kmsapi.StatusResponse) { r.Version = "v2beta1" }}, "KMSv2 API version should not change after the initial status response version v2, got v2beta1"},
		"no key":           {kmstest.Behaviour{Status: func(r *kmsapi.StatusResponse) { r.KeyId = "" }}, `got invalid KMSv2 KeyID hash "": keyID is empty`},
		"long key":         {kmstest.Behaviour{Status: func(r *kmsapi.StatusResponse) { r.KeyId = long }}, "keyID is 1025 bytes, which exceeds the max size of 1024"},
		"wrong key":        {kmstest.Behaviour{KeyID: "2", Encrypt: func(r *kmsapi.EncryptResponse) { r.KeyId = "3" }}, "the key of the answer is not the key of the status"},
		"empty seed":       {kmstest.Behaviour{KeyID: "2", Encrypt: func(r *kmsapi.EncryptResponse) { r.Ciphertext = nil }}, "encrypted DEK source is empty"},
		"long seed":        {kmstest.Behaviour{KeyID: "2", Encrypt: func(r *kmsapi.EncryptResponse) { r.Ciphertext = []byte(long) }}, "encrypted DEK source is 1025 bytes, which exceeds the max size of 1024"},
		"10 MB":            {kmstest.Behaviour{KeyID: "2", Encrypt: func(r *kmsapi.EncryptResponse) { r.Ciphertext = make([]byte, 10<<20) }}, "received message larger than max"},
		"bad annotation": {kmstest.Behaviour{KeyID: "2", Encrypt: func(r *kmsapi.EncryptResponse) { r.Annotations = map[string][]byte{"short": nil} }},
			"should be a domain with at least two segments separated by dots"},
		"large annotations": {kmstest.Behaviour{KeyID: "2", Encrypt: func(r *kmsapi.EncryptResponse) {
			r.Annotations = map[string][]byte{"a.example.com": make([]byte, 33<<10)}
		}}, "which exceeds the max size of 32768"},
	} {
		t.Run(name, func(t *testing.T) {
			p := kmstest.New(t)
			p.Start(t)
			e := openKMS(t, p, "1m", Times{Well: 1, Ill: 1})
			s := encrypt(t, e, "value")
			p.Behave(c.lie)
			if err := e.Check(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("check: %v, want %s", err, c.want)
			}
			if value, _ := decrypt(t, e, s); value != "value" {
				t.Errorf("read %q", value)
			}
			if s := encrypt(t, e, "value"); !bytes.Contains(s, []byte("\x12\x011")) {
				t.Errorf("written by another key: %q", s)
			}
		})
	}
}

// Secrets that decrypt to something else are no seeds, or not those.
func TestPluginDecryptsWrongly(t *testing.T) {
	p := kmstest.New(t)
	p.Start(t)
	s := encrypt(t, openKMS(t, p, "1m", Times{}), "value")
	for want, plain := range map[string][]byte{
		"invalid seed length 5 used for key generation": []byte("short"),
		"cipher: message authentication failed":         bytes.Repeat([]byte("x"), 32),
		"received message larger than max":              make([]byte, 10<<20),
	} {
		p.Behave(kmstest.Behaviour{Decrypt: func(r *kmsapi.DecryptResponse) { r.Plaintext = plain }})
		if _, _, err := openKMS(t, p, "1m", Times{}).Decrypt(t.Context(), secrets, "/k", s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A plugin in a process of its own is killed, and comes back: writes go on for
// as long as the seed is trusted, reads of what is known without end.
func TestPluginDies(t *testing.T) {
	p := kmstest.New(t)
	// It is not there yet.
	e := openKMS(t, p, "100ms", Times{Well: 1, Ill: 1, Poll: time.Millisecond, Retry: time.Millisecond, Trust: 500 * time.Millisecond})
	if _, err := e.Encrypt(t.Context(), secrets, "/k", []byte("value")); err == nil || err.Error() != "got unexpected nil transformer" {
		t.Errorf("encrypt without a plugin: %v", err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	changed := e.Changed()
	process := p.Process(t)
	<-changed
	s := encrypt(t, e, "value")
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		_, err = e.Encrypt(t.Context(), secrets, "/k", []byte("value"))
	}
	if !strings.Contains(err.Error(), "encryptedDEKSource with keyID hash ") || !strings.Contains(err.Error(), " expired at ") {
		t.Errorf("encrypt without the plugin: %v", err)
	}
	decrypt(t, e, s)
	changed = e.Changed()
	p.Process(t)
	<-changed
	if value, stale := decrypt(t, e, encrypt(t, e, "again")); value != "again" || stale {
		t.Errorf("afterwards: %q, stale %v", value, stale)
	}
	end()
	if err := <-ended; err == nil {
		t.Error("Run ended without an error")
	}
}
