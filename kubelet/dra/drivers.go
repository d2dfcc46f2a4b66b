package dra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-k8s/skiff/guard"
)

const (
	// registerTimeout is how long a driver may take to say who it is, callTimeout to prepare devices.
	registerTimeout = 10 * time.Second
	callTimeout     = 45 * time.Second
)

// drivers are those that have a socket in a folder by which they register, as plugins of kubelets do.
type drivers struct {
	folder string
	// changed is called, without a lock, when drivers have come or gone.
	changed func()

	mu sync.Mutex
	// bySocket are what is behind the sockets; nil: plugins of other kinds.
	bySocket map[string]*driver
}

type driver struct {
	name string
	conn *grpc.ClientConn
}

// run follows the folder until ctx ends.
func (d *drivers) run(ctx context.Context) error {
	defer func() {
		for _, known := range d.bySocket {
			known.close()
		}
	}()
	return watch(ctx, d.folder, func() bool { return d.look(ctx) })
}

func (d *driver) close() {
	if d != nil {
		_ = d.conn.Close()
	}
}

// look registers drivers whose sockets are new, and forgets those whose sockets are gone. It is content unless a
// driver could not be registered.
func (d *drivers) look(ctx context.Context) (content bool) {
	there := d.sockets()
	d.mu.Lock()
	before := maps.Clone(d.bySocket)
	for socket, known := range d.bySocket {
		if !slices.Contains(there, socket) {
			known.close()
			delete(d.bySocket, socket)
		}
	}
	d.mu.Unlock()
	content = true
	var group guard.Group
	for _, socket := range there {
		if _, ok := before[socket]; ok {
			continue
		}
		group.Go("registration of a driver", func() {
			found, err := register(ctx, socket)
			d.mu.Lock()
			defer d.mu.Unlock()
			if err != nil {
				slog.Debug("driver of devices not registered", "socket", socket, "error", err)
				content = false
				return
			}
			d.bySocket[socket] = found
		})
	}
	group.Wait()
	d.changed()
	return content
}

// sockets lists the folder.
func (d *drivers) sockets() []string {
	entries, err := os.ReadDir(d.folder)
	if err != nil {
		slog.Warn("sockets of drivers not listed", "error", err)
		return nil
	}
	var list []string
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 {
			list = append(list, filepath.Join(d.folder, e.Name()))
		}
	}
	return list
}

// register asks who is behind a socket, and tells a driver of devices whether it is taken on. Plugins of other kinds
// are nil.
func register(ctx context.Context, socket string) (*driver, error) {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := registrationv1.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registrationv1.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("ask for the plugin's name: %w", err)
	}
	if info.Type != registrationv1.DRAPlugin {
		return nil, nil
	}
	found, err := connect(info, socket)
	status := &registrationv1.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = err.Error()
	}
	if _, tellErr := client.NotifyRegistrationStatus(ctx, status); tellErr != nil {
		found.close()
		return nil, errors.Join(err, fmt.Errorf("tell driver %s of its registration: %w", info.Name, tellErr))
	}
	return found, err
}

func connect(info *registrationv1.PluginInfo, socket string) (*driver, error) {
	if !slices.Contains(info.SupportedVersions, drav1.DRAPluginService) {
		return nil, fmt.Errorf("none of services supported by the plugin (%q) are supported by the kubelet (%q)", info.SupportedVersions, []string{drav1.DRAPluginService})
	}
	endpoint := info.Endpoint
	if endpoint == "" {
		endpoint = socket
	}
	conn, err := dial(endpoint)
	if err != nil {
		return nil, err
	}
	return &driver{info.Name, conn}, nil
}

func dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, fmt.Errorf("connect to the driver at %s: %w", socket, err)
	}
	return conn, nil
}

// names are the drivers that are registered.
func (d *drivers) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for _, known := range d.bySocket {
		if known != nil {
			names = append(names, known.name)
		}
	}
	return names
}

// client reaches a driver.
func (d *drivers) client(name string) (drav1.DRAPluginClient, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, known := range d.bySocket {
		if known != nil && known.name == name {
			return drav1.NewDRAPluginClient(known.conn), nil
		}
	}
	return nil, fmt.Errorf("DRA driver %s is not registered", name)
}
