// Package apiservertest starts the whole API server in the process of a test:
// all kinds, roles and admission, over a backend in memory.
package apiservertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

// Start returns a server that is ready. It ends with the test. change, if not
// nil, may change the options.
func Start(t testing.TB, change func(*apiserver.Options)) *apiserver.Server {
	t.Helper()
	ca, key := keys(t)
	o := apiserver.Options{
		Backend: memory.New(), ClientCA: ca, ServiceAccountKey: key,
		Advertise: netip.MustParseAddrPort("192.0.2.1:6443"),
		Log:       slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := apiserver.Standard(ctx, o)
	if err != nil {
		cancel()
		t.Fatalf("start the API server: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		s.Close()
		o.Backend.Close()
	})
	return s
}

// Config reaches s in process as a user of groups; without groups as one of
// system:masters.
func Config(s *apiserver.Server, name string, groups ...string) *rest.Config {
	if len(groups) == 0 {
		groups = []string{user.SystemPrivilegedGroup}
	}
	return &rest.Config{
		Host:      "https://in-process",
		Transport: s.Transport(&user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}),
		QPS:       -1, UserAgent: name,
	}
}

// keys makes a certificate authority and a key that signs tokens.
func keys(t testing.TB) (ca, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
