// Package upstream puts the contract that Kubernetes has for its storage
// (k8s.io/apiserver/pkg/storage/testing) to what stores and serves objects
// here, on every engine. It has tests alone.
package upstream
