package apiserver

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/apiserver/health"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// keys are what objects are encrypted by, or nothing.
type keys struct{ *encryption.Encryption }

// encryption reads which keys the options name.
func (o Options) encryption(ctx context.Context, registry prometheus.Registerer) (keys, error) {
	c := o.Encryption
	if c.File == "" && c.Reload {
		return keys{}, errors.New("--encryption-provider-config-automatic-reload must be set with --encryption-provider-config")
	}
	if c.File == "" {
		return keys{}, nil
	}
	c.Metrics, c.Log, c.ServerID = registry, o.Log, o.Advertise.String()
	e, err := encryption.Open(ctx, c)
	return keys{e}, err
}

func (k keys) store() store.Encryption {
	if k.Encryption == nil {
		return nil
	}
	return k.Encryption
}

// run keeps the keys up to date for as long as the parts of s run.
func (k keys) run(ctx context.Context, s *Server) {
	if k.Encryption != nil {
		s.follow(ctx, "encryption", k.Run)
	}
}

func (k keys) close() {
	if k.Encryption != nil {
		k.Close()
	}
}

// checks are of /healthz and /readyz. A server that is restarted (/livez) would
// know less.
func (k keys) checks() []health.Check {
	if k.Encryption == nil || !k.HasHealth() {
		return nil
	}
	return []health.Check{{Name: encryption.HealthName, Probe: k.Check}}
}
