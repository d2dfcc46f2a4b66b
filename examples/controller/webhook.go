package backup

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/robfig/cron/v3"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Validate is a webhook that refuses Backups whose schedule is none.
func Validate() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 8<<20)).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, "no AdmissionReview", http.StatusBadRequest)
			return
		}
		review.Response = judge(review.Request)
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review) // there is nobody to tell but the client
	})
}

func judge(request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	refuse := func(err error) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{UID: request.UID, Result: &metav1.Status{Message: err.Error(), Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity}}
	}
	var b Backup
	if err := json.Unmarshal(request.Object.Raw, &b); err != nil {
		return refuse(err)
	}
	if _, err := cron.ParseStandard(b.Spec.Schedule); err != nil {
		return refuse(errors.New("spec.schedule: " + err.Error()))
	}
	return &admissionv1.AdmissionResponse{UID: request.UID, Allowed: true}
}
