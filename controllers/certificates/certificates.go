// Package certificates signs what clients of the cluster ask for in CertificateSigningRequests, approves what kubelets
// ask for themselves, and clears requests away that are settled.
//
// What a signer signs is a table in permit.go. Everybody else's signer names are left to others.
package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Deps is what the controllers of this package are made of.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Workers   int
}

// controller calls sync for each request that is new or changed, and again after the time that sync returns.
func controller(d Deps, name string, sync func(context.Context, *certificatesv1.CertificateSigningRequest) (time.Duration, error)) reconcile.Controller {
	requests := d.Informers.Certificates().V1().CertificateSigningRequests()
	return reconcile.Controller{
		Name:    name,
		Workers: d.Workers,
		Watch:   []reconcile.Source{reconcile.Self(requests.Informer())},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			csr, err := requests.Lister().Get(key.Name)
			if err != nil {
				return 0, reconcile.IgnoreNotFound(err)
			}
			return sync(ctx, csr)
		},
	}
}

func parse(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("unable to parse csr %q: %w", csr.Name, err)
	}
	return request, nil
}

func has(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
}

func failed(csr *certificatesv1.CertificateSigningRequest) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == certificatesv1.CertificateFailed && (c.Status == "" || c.Status == corev1.ConditionTrue)
	})
}

func issued(csr *certificatesv1.CertificateSigningRequest) bool {
	return len(csr.Status.Certificate) > 0
}
