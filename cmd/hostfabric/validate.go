package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/agent/config"
)

func newValidateCommand() *cobra.Command {
	o := &configOptions{}
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check a configuration file and report every mistake at once",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load(cmd)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: AS %d, %d peers, %d blocks\n", o.path, cfg.ASN, len(cfg.Peers), len(cfg.Blocks))
			return err
		},
	}
	o.AddFlags(cmd)
	return cmd
}

// configOptions name the configuration file; every scalar key of it is a flag too.
type configOptions struct{ path string }

func (o *configOptions) AddFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&o.path, "config", "c", defaultConfig, "configuration file")
	for key, standard := range config.Keys() {
		fs.String(config.FlagName(key), "", fmt.Sprintf("overrides %s (%s)", key, standard))
		cmd.Flag(config.FlagName(key)).DefValue = standard
	}
}

func (o *configOptions) load(cmd *cobra.Command) (*config.Config, error) {
	cfg, err := config.Load(o.path, cmd.Flags())
	var mistakes config.Errors
	if errors.As(err, &mistakes) {
		return nil, fmt.Errorf("%s: %d mistakes:\n%w", o.path, len(mistakes), err)
	}
	return cfg, err
}
