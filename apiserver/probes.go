package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/health"
)

// liveChecks and readyChecks are named as those of kube-apiserver: people exclude checks by name, and ask for single
// ones. Which of its names are not here, and why, is said in conformance/oracle/signals.yaml.
func (s *Server) liveChecks() []health.Check {
	return []health.Check{health.Ping, {Name: "loopback-serving-certificate", Probe: s.probeCertificate}, {Name: "etcd", Probe: s.probeStorage}}
}

func (s *Server) readyChecks(keys []health.Check) []health.Check {
	return slices.Concat(
		[]health.Check{health.Ping, {Name: "etcd", Probe: s.probeStorage}, {Name: "etcd-readiness", Probe: s.probeStorage}},
		keys,
		[]health.Check{{Name: "informer-sync", Probe: s.probeParts}, {Name: "shutdown", Probe: s.probeShutdown}},
	)
}

// probeStorage asks the storage for its newest revision.
func (s *Server) probeStorage(ctx context.Context) error {
	_, err := s.store.Revision(ctx)
	return err
}

// probeCertificate says whether a certificate that clients are shown has expired.
func (s *Server) probeCertificate(context.Context) error {
	config := s.serving.Load()
	if config == nil {
		return nil // nobody is shown one
	}
	shown := make([]*tls.Certificate, 0, 1)
	for i := range config.Certificates {
		shown = append(shown, &config.Certificates[i])
	}
	if config.GetCertificate != nil {
		certificate, err := config.GetCertificate(&tls.ClientHelloInfo{ServerName: "localhost"})
		if err != nil {
			return err
		}
		shown = append(shown, certificate)
	}
	for _, c := range shown {
		if err := expired(c, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

func expired(c *tls.Certificate, now time.Time) error {
	if len(c.Certificate) == 0 {
		return errors.New("a certificate without content")
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return err
	}
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("the serving certificate expired at %v", leaf.NotAfter)
	}
	return nil
}

// probeParts says which part of the server that follows the store has ended, for what it knows grows old.
func (s *Server) probeParts(context.Context) error {
	if part := s.ended.Load(); part != nil {
		return fmt.Errorf("%s does not follow the store any more", *part)
	}
	return nil
}

// probeShutdown keeps new requests away from a server that was told to end.
func (s *Server) probeShutdown(context.Context) error {
	if s.stopping.Err() != nil {
		return errors.New("shutting down")
	}
	return nil
}
