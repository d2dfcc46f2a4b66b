package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// How long a request is kept once it is settled, and before.
const (
	keepSettled = time.Hour
	keepPending = 24 * time.Hour
)

// Cleaner deletes requests that are of no more use: an hour after they were signed, denied or failed, a day after they
// were made or approved and nothing followed, and when the certificate has expired. It is woken by requests, and by time.
func Cleaner(d Deps) reconcile.Controller {
	return controller(d, "CertificateCleaner", func(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (time.Duration, error) {
		due := useless(csr)
		if due.IsZero() {
			return 0, nil
		}
		if left := time.Until(due); left > 0 {
			return left, nil
		}
		err := d.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, csr.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &csr.UID, ResourceVersion: &csr.ResourceVersion},
		})
		return 0, reconcile.IgnoreNotFound(err)
	})
}

// useless is when a request is of no more use; zero if that is not known.
func useless(csr *certificatesv1.CertificateSigningRequest) time.Time {
	if len(csr.Status.Conditions) == 0 {
		return after(csr.CreationTimestamp, keepPending)
	}
	var first time.Time
	settle := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	for _, c := range csr.Status.Conditions {
		since := c.LastUpdateTime
		switch {
		case c.Type == certificatesv1.CertificateApproved && issued(csr):
			settle(after(since, keepSettled))
			settle(expiry(csr.Status.Certificate))
		case c.Type == certificatesv1.CertificateApproved:
			settle(after(since, keepPending))
		case c.Type == certificatesv1.CertificateDenied, c.Type == certificatesv1.CertificateFailed:
			settle(after(since, keepSettled))
		}
	}
	return first
}

// after is zero for a time that is not set.
func after(t metav1.Time, d time.Duration) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Add(d)
}

// expiry is when the first certificate of a chain expires; zero if there is none that can be read.
func expiry(chain []byte) time.Time {
	block, _ := pem.Decode(chain)
	if block == nil {
		return time.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}
