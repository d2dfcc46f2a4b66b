package cluster

import (
	"context"
	"errors"
	"slices"
	"time"
)

// renewEvery is how often it is seen whether certificates must be renewed. It
// is short beside renewBefore, and a machine that slept is not late for long.
const renewEvery = time.Hour

// renewCertificates keeps the certificates of the cluster from expiring while
// it runs. Who uses them reads the files of the PKI for each connection; a
// kubeconfig that has one in it is written anew.
func (r *run) renewCertificates(ctx context.Context) error {
	ticks := time.NewTicker(renewEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
			if err := r.renewOnce(); err != nil {
				r.Log.Error("certificates are not renewed", "error", err)
			}
		}
	}
}

func (r *run) renewOnce() error {
	renewed, err := r.pki.Renew()
	proxies, failed := r.proxies.Renew()
	renewed, err = append(renewed, proxies...), errors.Join(err, failed)
	if len(renewed) > 0 {
		r.Log.Info("certificates are renewed", "names", renewed)
	}
	if slices.Contains(renewed, adminUser.file) {
		err = errors.Join(err, r.writeKubeconfigs())
	}
	return err
}
