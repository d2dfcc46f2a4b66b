package apiserver

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-k8s/skiff/apiserver/alloc"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/snapshot"
	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// CheckStorage is store.Check with all kinds that Standard serves, encrypted as c
// says. It needs no server.
func CheckStorage(ctx context.Context, b backend.Backend, c encryption.Config, tell snapshot.Progress) (store.Report, error) {
	services, err := alloc.New(alloc.Config{Backend: b})
	if err != nil {
		return store.Report{}, err
	}
	keys, err := Options{Settings: Settings{Encryption: c}, Log: slog.Default()}.encryption(ctx, prometheus.NewRegistry())
	if err != nil {
		return store.Report{}, err
	}
	defer keys.close()
	return store.Check(ctx, store.Config{
		Backend: b, Resources: builtin.Resources(builtin.Deps{Services: services}), Encryption: keys.store(),
	}, tell)
}
