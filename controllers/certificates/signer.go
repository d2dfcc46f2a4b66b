package certificates

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Signer signs the requests to the signers of the cluster that somebody has approved. One that asks for what its signer
// does not sign fails for good. It is woken by requests.
func Signer(d Deps, authority *Authority) reconcile.Controller {
	client := d.Client.CertificatesV1().CertificateSigningRequests()
	return controller(d, "CertificateSigner", func(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (time.Duration, error) {
		answered, err := authority.answer(csr, time.Now())
		if err != nil || answered == nil {
			return 0, err
		}
		if _, err := client.UpdateStatus(ctx, answered, metav1.UpdateOptions{}); reconcile.IgnoreNotFound(err) != nil {
			return 0, fmt.Errorf("answer request %s: %w", csr.Name, err)
		}
		return 0, nil
	})
}

// answer is a request with its certificate, or with why there is none; nil if there is nothing to say.
func (a *Authority) answer(csr *certificatesv1.CertificateSigningRequest, now time.Time) (*certificatesv1.CertificateSigningRequest, error) {
	permit, ours := permits[csr.Spec.SignerName]
	if !ours || issued(csr) || failed(csr) || !has(csr, certificatesv1.CertificateApproved) || has(csr, certificatesv1.CertificateDenied) {
		return nil, nil
	}
	request, err := parse(csr)
	if err != nil {
		return nil, err
	}
	csr = csr.DeepCopy()
	if err := permit(request, csr.Spec.Usages); err != nil {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue,
			Reason: "SignerValidationFailure", Message: err.Error(), LastUpdateTime: metav1.NewTime(now),
		})
		return csr, nil
	}
	if csr.Status.Certificate, err = a.sign(request, csr.Spec.Usages, csr.Spec.ExpirationSeconds, now); err != nil {
		return nil, fmt.Errorf("sign request %s: %w", csr.Name, err)
	}
	return csr, nil
}
