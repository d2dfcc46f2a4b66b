package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Approver approves requests for client certificates of kubelets from those who may have them: a kubelet its own
// (selfnodeclient), and who brings nodes into the cluster any (nodeclient). It is woken by requests, and asks again after
// a while whether a right was given since.
func Approver(d Deps) reconcile.Controller {
	return controller(d, "CertificateApprover", func(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (time.Duration, error) {
		return 0, approve(ctx, d.Client, csr)
	})
}

func approve(ctx context.Context, client kubernetes.Interface, csr *certificatesv1.CertificateSigningRequest) error {
	if issued(csr) || has(csr, certificatesv1.CertificateApproved) || has(csr, certificatesv1.CertificateDenied) {
		return nil
	}
	request, err := parse(csr)
	if err != nil {
		return err
	}
	rights := rightsFor(csr, request)
	for _, right := range rights {
		allowed, err := may(ctx, client, csr, right.subresource)
		if err != nil {
			return err
		}
		if !allowed {
			continue
		}
		csr = csr.DeepCopy()
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: right.message,
		})
		_, err = client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
		return reconcile.IgnoreNotFound(err)
	}
	if len(rights) > 0 {
		return fmt.Errorf("request %s is one of a kubelet, but %s may not make it", csr.Name, csr.Spec.Username)
	}
	return nil
}

// right is one by which a request is approved.
type right struct{ subresource, message string }

// rightsFor are the rights any of which is enough for a request.
func rightsFor(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) []right {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || permitKubeletClient(request, csr.Spec.Usages) != nil {
		return nil
	}
	anyNode := right{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}
	if csr.Spec.Username != request.Subject.CommonName {
		return []right{anyNode}
	}
	return []right{{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."}, anyNode}
}

// may asks whether the maker of a request has a right.
func may(ctx context.Context, client kubernetes.Interface, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(csr.Spec.Extra))
	for name, values := range csr.Spec.Extra {
		extra[name] = authorizationv1.ExtraValue(values)
	}
	review, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Version: "*", Verb: "create", Resource: "certificatesigningrequests", Subresource: subresource,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("whether %s may make request %s: %w", csr.Spec.Username, csr.Name, err)
	}
	return review.Status.Allowed, nil
}
